"""The methods of ``client.jobs`` of the synchronous and of the asynchronous client."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from serve_app.client import job_requests as requests
from serve_app.client.events import EventFeed, JobEvent, MissedEvents, job_event
from serve_app.client.saving import save, save_async
from serve_app.schemas.jobs import AT_REST, JobFailure, JobResult, JobSpec, JobStatus
from serve_app.types import Json

if TYPE_CHECKING:
    from serve_app.client.async_ import AsyncClient
    from serve_app.client.sync import Client

_PAGE = 1000
_PIECE_BYTES = 2**20
_POLL_INTERVAL_S = 0.5


class JobsApi:
    """The methods of ``client.jobs``. A method that takes an id raises NotFoundError if no job has that id."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, spec: JobSpec | Json) -> JobStatus:
        """Add a job: ``{"id": "night", "source": {"type": "files", "path": "night/**/*.jpg"}}``.

        The job survives every restart of the server from the moment that this method returns. Raise ConflictError if a
        job with this id exists. To repeat a request that got no response, set an id and use ``put``.
        """
        return self._client.send(requests.create(spec))

    def put(self, spec: JobSpec | Json) -> JobStatus:
        """Add a job, or return its status if the same job exists. Raise ConflictError if another job has this id."""
        return self._client.send(requests.put(spec))

    def list(self, *, state: str | None = None, tag: str | None = None) -> Iterator[JobStatus]:
        """Yield the status of every job, the newest first. ``tag`` is ``key`` or ``key=value``."""
        after = None
        while True:
            page = self._client.send(requests.list_jobs(state, tag, 100, after))
            yield from page.jobs
            if page.next is None:
                return
            after = page.next

    def status(self, job_id: str) -> JobStatus:
        """Return a job's state and counters."""
        return self._client.send(requests.status(job_id))

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job ends, and return its status. Raise TimeoutError after ``timeout_s`` seconds."""
        expires_at_s = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while (status := self.status(job_id)).state not in AT_REST:
            if time.monotonic() > expires_at_s:
                raise TimeoutError(f"job {job_id} has not ended within {timeout_s:g} s: it is {status.state}")
            time.sleep(_POLL_INTERVAL_S)
        return status

    def items(self, job_id: str, *, state: str | None = None) -> Iterator[JobResult | JobFailure]:
        """Yield the items of a job that are done. ``state`` is ``succeeded``, ``failed`` or None for both."""
        after = None
        while True:
            page = self._client.send(requests.items(job_id, state, after, _PAGE))
            yield from page.items
            if page.next is None:
                return
            after = page.next

    def save_results(self, job_id: str, path: str | os.PathLike[str], kind: str = "jsonl") -> None:
        """Save the results of a job to a file: ``jsonl``, ``csv``, ``coco``, ``yolo`` (a zip file) or ``parquet``.

        The file appears when it is whole. While the job runs, only ``jsonl`` and ``csv`` are possible, with the results
        so far.
        """
        save(self._client, requests.results(job_id, kind), path)

    def cancel(self, job_id: str) -> JobStatus:
        """Stop a job before its items are done. The results so far stay readable."""
        return self._client.send(requests.change(job_id, "cancel"))

    def pause(self, job_id: str) -> JobStatus:
        """Start no new work of a job until it is resumed."""
        return self._client.send(requests.change(job_id, "pause"))

    def resume(self, job_id: str) -> JobStatus:
        """Continue a paused job."""
        return self._client.send(requests.change(job_id, "resume"))

    def retry(self, job_id: str, codes: Iterable[str] | None = None) -> JobStatus:
        """Try the failed items again, or those that failed with one of the ``codes``.

        If the job was cancelled or has failed, it also continues with all items that are not done.
        """
        return self._client.send(requests.retry(job_id, codes))

    def delete(self, job_id: str) -> None:
        """Stop a job and delete it with its results."""
        self._client.send(requests.delete(job_id))

    def upload(self, job_id: str, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Upload a file to a job whose source is ``upload``. Call ``start`` after the last file."""
        with open(path, "rb") as file:
            self._client.send(requests.put_file(job_id, name or Path(path).name, file))

    def start(self, job_id: str) -> JobStatus:
        """Start a job whose files are uploaded."""
        return self._client.send(requests.change(job_id, "start"))

    def image(self, job_id: str, item: int, boxes: bool = True) -> bytes:
        """Return the image of an item as a JPEG."""
        return self._client.send(requests.image(job_id, item, boxes))

    def set_owner(self, job_id: str, owner: str) -> JobStatus:
        """Give a job without an owner an owner. Only an API key with the scope ``admin`` may do this."""
        return self._client.send(requests.set_owner(job_id, owner))

    def events(
        self, job_id: str, types: Iterable[str] | None = None, after: int | None = None
    ) -> Iterator[JobEvent | MissedEvents]:
        """Follow the events of a job until it is deleted: see ``StreamsApi.events``."""
        return self._client.events(EventFeed(requests.path(job_id, "events"), job_event, types, after))


class AsyncJobsApi:
    """The asyncio methods of ``client.jobs``: see ``JobsApi`` for every method."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, spec: JobSpec | Json) -> JobStatus:
        """Add a job: see ``JobsApi.create``."""
        return await self._client.send(requests.create(spec))

    async def put(self, spec: JobSpec | Json) -> JobStatus:
        """Add a job unless the same job exists: see ``JobsApi.put``."""
        return await self._client.send(requests.put(spec))

    async def list(self, *, state: str | None = None, tag: str | None = None) -> AsyncIterator[JobStatus]:
        """Yield the status of every job: see ``JobsApi.list``."""
        after = None
        while True:
            page = await self._client.send(requests.list_jobs(state, tag, 100, after))
            for status in page.jobs:
                yield status
            if page.next is None:
                return
            after = page.next

    async def status(self, job_id: str) -> JobStatus:
        """Return a job's status: see ``JobsApi.status``."""
        return await self._client.send(requests.status(job_id))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job ends: see ``JobsApi.wait``."""
        async with asyncio.timeout(timeout_s):
            while (status := await self.status(job_id)).state not in AT_REST:  # noqa: ASYNC110  # a request
                await asyncio.sleep(_POLL_INTERVAL_S)
        return status

    async def items(self, job_id: str, *, state: str | None = None) -> AsyncIterator[JobResult | JobFailure]:
        """Yield the items of a job that are done: see ``JobsApi.items``."""
        after = None
        while True:
            page = await self._client.send(requests.items(job_id, state, after, _PAGE))
            for item in page.items:
                yield item
            if page.next is None:
                return
            after = page.next

    async def save_results(self, job_id: str, path: str | os.PathLike[str], kind: str = "jsonl") -> None:
        """Save the results of a job to a file: see ``JobsApi.save_results``."""
        await save_async(self._client, requests.results(job_id, kind), path)

    async def cancel(self, job_id: str) -> JobStatus:
        """Stop a job: see ``JobsApi.cancel``."""
        return await self._client.send(requests.change(job_id, "cancel"))

    async def pause(self, job_id: str) -> JobStatus:
        """Start no new work of a job: see ``JobsApi.pause``."""
        return await self._client.send(requests.change(job_id, "pause"))

    async def resume(self, job_id: str) -> JobStatus:
        """Continue a paused job: see ``JobsApi.resume``."""
        return await self._client.send(requests.change(job_id, "resume"))

    async def retry(self, job_id: str, codes: Iterable[str] | None = None) -> JobStatus:
        """Try failed items again: see ``JobsApi.retry``."""
        return await self._client.send(requests.retry(job_id, codes))

    async def delete(self, job_id: str) -> None:
        """Stop and delete a job: see ``JobsApi.delete``."""
        await self._client.send(requests.delete(job_id))

    async def upload(self, job_id: str, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Upload a file: see ``JobsApi.upload``."""
        with await asyncio.to_thread(open, path, "rb") as file:
            await self._client.send(requests.put_file(job_id, name or Path(path).name, _pieces(file)))

    async def start(self, job_id: str) -> JobStatus:
        """Start a job whose files are uploaded: see ``JobsApi.start``."""
        return await self._client.send(requests.change(job_id, "start"))

    async def image(self, job_id: str, item: int, boxes: bool = True) -> bytes:
        """Return the image of an item: see ``JobsApi.image``."""
        return await self._client.send(requests.image(job_id, item, boxes))

    async def set_owner(self, job_id: str, owner: str) -> JobStatus:
        """Give a job an owner: see ``JobsApi.set_owner``."""
        return await self._client.send(requests.set_owner(job_id, owner))

    def events(
        self, job_id: str, types: Iterable[str] | None = None, after: int | None = None
    ) -> AsyncIterator[JobEvent | MissedEvents]:
        """Follow the events of a job: see ``JobsApi.events``."""
        return self._client.events(EventFeed(requests.path(job_id, "events"), job_event, types, after))


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece
