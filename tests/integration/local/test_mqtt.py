"""A test of the status at an MQTT broker when the whole server is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from scripts import launch
from scripts.launch import ROOT
from serve_app.ipc import dev_shm
from tests.integration.sinks.conftest import ServerStarter, broker  # noqa: F401  # a fixture
from tests.support.mqtt import until_retained

STATUS = "sightline/status"
NOTICED_WITHIN_S = 10.0


@pytest.mark.only_with_chaos  # a test of the publication kills the process that is connected to the broker
def test_the_broker_says_that_a_killed_server_is_offline(tmp_path: Path, broker: ServerStarter) -> None:  # noqa: F811
    port = broker().port
    variables = {"SERVE_APP_MQTT_URL": f"mqtt://127.0.0.1:{port}"}
    server = launch.start(ROOT / "configs/local.yaml", tmp_path / "log", variables=variables)
    try:
        server.wait_until_ready()
        asyncio.run(until_retained(port, lambda found: found.get(STATUS) == b"online"))
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        asyncio.run(until_retained(port, lambda found: found[STATUS] == b"offline", within_s=NOTICED_WITHIN_S))
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
    finally:
        launch.stop_group(server.process)
        dev_shm.sweep_all()  # the files of processes that were killed; the next server would also remove them
