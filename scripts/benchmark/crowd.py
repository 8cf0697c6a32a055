"""A program that simulates the processes of many streams and jobs. It sends frames directly to the Detector.

The program reads the cluster's address, ``SenderGroup``s and a duration in seconds as JSON from stdin. It prints an
empty line when every tenant has received an answer, and prints the images per second by tenant at the end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.benchmark.simulation import SenderGroup

APPLICATION = "sightline"
_TIMEOUT_S = 60.0


@contextmanager
def crowd(address: str, crowds: list[SenderGroup], duration_s: float) -> Iterator[dict[str, float]]:
    """Send frames for ``duration_s``, and yield a dict that is empty while the ``with`` block runs.

    The block must not take longer than ``duration_s``. After the block, the dict contains the images per second of each
    tenant.
    """
    seen: dict[str, float] = {}
    command = [sys.executable, "-m", __name__]
    env = os.environ | {"RAY_AUTH_MODE": "token"}  # the cluster that scripts/serve starts requires a token
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([address, [dataclasses.asdict(one) for one in crowds], duration_s]))
        process.stdin.close()
        if not process.stdout.readline():
            raise RuntimeError("the senders received no answer; see the traceback above")
        yield seen
        seen.update(json.loads(process.stdout.readline()))


async def _send(crowds: list[SenderGroup], duration_s: float) -> dict[str, float]:
    from ray.serve.handle import DeploymentHandle

    from serve_app.deployments.detector_client import DetectorClient
    from serve_app.errors import ServeAppError
    from serve_app.images.letterbox import fit

    answered: Counter[str] = Counter()
    all_answered = asyncio.Event()

    async def sender(client: DetectorClient, tenant: str, ends_at_s: float) -> None:
        model = await client.model(_TIMEOUT_S)
        fitted = fit(model.input_shape.width_px, model.input_shape.height_px, model.input_shape)
        with client.pool.lease() as slot:
            while time.monotonic() < ends_at_s:
                try:
                    await client.detect(slot, fitted, model, model.defaults, time_left_s=_TIMEOUT_S)
                except ServeAppError:
                    await asyncio.sleep(0.1)  # back off after a refusal
                    continue
                answered[tenant] += 1
                if len(answered) == len(crowds):
                    all_answered.set()

    clients = [
        DetectorClient(
            # Each client needs a handle of its own. ``serve.get_deployment_handle`` would return the same handle to all
            # clients.
            DeploymentHandle("Detector", APPLICATION),
            slots=one.senders,
            traffic=one.traffic,
            tenant=one.tenant,
            _run_router_in_separate_loop=True,
        )
        for one in crowds
    ]
    for client in clients:
        await client.connect()
    ends_at_s = time.monotonic() + 60 + duration_s
    senders = [
        asyncio.create_task(sender(client, one.tenant, ends_at_s))
        for client, one in zip(clients, crowds, strict=True)
        for _ in range(one.senders)
    ]
    await all_answered.wait()
    print(flush=True)
    before, started_at_s = Counter(answered), time.monotonic()
    await asyncio.sleep(duration_s)
    rates = {
        one.tenant: (answered[one.tenant] - before[one.tenant]) / (time.monotonic() - started_at_s) for one in crowds
    }
    for task in senders:
        task.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    for client in clients:
        client.close()
    return rates


if __name__ == "__main__":
    import ray

    address, crowds, duration_s = json.load(sys.stdin)
    ray.init(address=address, log_to_driver=False)
    rates = asyncio.run(_send([SenderGroup(**one) for one in crowds], duration_s))
    print(json.dumps(rates), flush=True)
    ray.shutdown()
