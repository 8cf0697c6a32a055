"""Send the requests of Frigate's detector beside a batch job, which alone would keep the engine busy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import httpx
import numpy as np

from scripts.trials.cluster import Cluster, until
from scripts.trials.stage import Tell
from serve_app.client import Client
from serve_app.schemas.jobs import AT_REST

PICTURE_PX = 320  # Frigate cuts a square of this size out of a camera's frame
_REQUESTS_PER_S = 4.0
_TIMEOUT_S = 0.1  # after this time, Frigate gives up
_JOB = "frigate"
_JOB_ALONE_S = 10.0


@dataclass
class Answers:
    """The answers to Frigate's requests, and the speed of the job with and without these requests."""

    took_s: list[float] = field(default_factory=list)
    job_alone_per_s: float = 0.0
    job_beside_per_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def late(self) -> float:
        """The share of the requests for which Frigate would not have waited."""
        return float(np.mean(np.array(self.took_s) > _TIMEOUT_S))


def square(photograph: bytes) -> bytes:
    """Return a JPEG as Frigate sends it: a square from the middle of a photograph."""
    pixels = cv2.imdecode(np.frombuffer(photograph, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    height, width = pixels.shape[:2]
    side = min(height, width)
    middle = pixels[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
    return cv2.imencode(".jpg", cv2.resize(middle, (PICTURE_PX, PICTURE_PX)))[1].tobytes()


def frigate(cluster: Cluster, folder: Path, pictures: list[bytes], count: int, tell: Tell) -> Answers:
    """Send ``count`` requests, four per second, while a job over the images in ``folder`` runs."""
    answers = Answers()
    with Client(cluster.url) as client, httpx.Client(base_url=cluster.url, timeout=10.0, trust_env=False) as camera:
        client.jobs.create({"id": _JOB, "source": {"type": "files", "path": str(folder)}})
        until(partial(_has_results, client), what="the job's first results")
        before, started_at_s = client.jobs.status(_JOB).succeeded, time.monotonic()
        time.sleep(_JOB_ALONE_S)
        middle, clients_at_s = client.jobs.status(_JOB).succeeded, time.monotonic()
        answers.job_alone_per_s = (middle - before) / (clients_at_s - started_at_s)
        for number in range(count):
            time.sleep(max(0.0, clients_at_s + number / _REQUESTS_PER_S - time.monotonic()))
            sent_at_s = time.monotonic()
            answer = camera.post(
                "/v1/vision/detection",
                data={"api_key": ""},
                files={"image": ("image", pictures[number % len(pictures)])},
            )
            answers.took_s.append(time.monotonic() - sent_at_s)
            if answer.status_code != 200 or not answer.json()["success"]:
                answers.problems.append(f"request {number}: {answer.status_code} {answer.text[:200]}")
            tell(number + 1)
        job = client.jobs.status(_JOB)
        answers.job_beside_per_s = (job.succeeded - middle) / (time.monotonic() - clients_at_s)
        if job.state in AT_REST:
            answers.problems.append("the job ended before the requests did")
        client.jobs.delete(_JOB)
    return answers


def _has_results(client: Client) -> bool:
    return client.jobs.status(_JOB).succeeded > 100
