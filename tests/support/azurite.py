"""Azurite, Microsoft's emulator of Azure's storage, in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.client import HTTPConnection

import pytest
from obstore.store import AzureStore

from tests.support.paths import ROOT

COMMAND = shutil.which("azurite-blob", path=f"{os.environ.get('PATH', '')}:{ROOT}/.venv/azurite/node_modules/.bin")
_HOST = "127.0.0.1"
_ACCOUNT = "devstoreaccount1"  # the emulator's only account and its key, which Microsoft publishes
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"


@contextmanager
def azurite() -> Iterator[int]:
    """Run Azurite's blob service, and yield its port."""
    with socket.create_server((_HOST, 0)) as free:
        port: int = free.getsockname()[1]
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [str(COMMAND), "--blobHost", _HOST, "--blobPort", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            while "successfully listens" not in (line := server.stdout.readline()):
                assert line, "Azurite ended"
            yield port
        finally:
            server.terminate()


def make_container(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> AzureStore:
    """Make a container, point the environment to it, and return it."""
    date = formatdate(usegmt=True)
    signed = (
        f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{_VERSION}\n/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    )
    signature = base64.b64encode(hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": _VERSION, "Authorization": f"SharedKey {_ACCOUNT}:{signature}"}
    server = HTTPConnection(_HOST, port)
    server.request("PUT", f"/{_ACCOUNT}/{name}?restype=container", headers=headers)
    assert server.getresponse().status == 201
    server.close()
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://{_HOST}:{port}")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    return AzureStore(name, client_options={"allow_http": True})
