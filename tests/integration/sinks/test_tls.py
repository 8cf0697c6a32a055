"""Tests of sinks with TLS, which must refuse untrusted certificates."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.launch import free_port
from tests.integration.sinks.conftest import ServerStarter, entries, executable, opened
from tests.support.receiver import Receiver
from tests.support.sinks import event, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Create a self-signed certificate for 127.0.0.1, and save its key in the same folder."""
    path = tmp_path / "certificate.pem"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files: list[str | Path] = ["-out", path, "-keyout", path.with_suffix(".key")]
    command = [executable("openssl"), "req", *kind, *names, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


async def assert_requires_a_trusted_certificate(
    spec: dict[str, Any], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(**spec) as sink:
        sink.put(event(0))
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in sink.status().detail)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with opened(**spec) as sink:
        sink.put(event(1))
        await until(lambda: sink.status().sent)


async def test_a_webhook_must_have_a_trusted_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    receiver = Receiver()
    await receiver.start(tls)
    spec = {"type": "webhook", "url": f"https://127.0.0.1:{receiver.port}/"}
    await assert_requires_a_trusted_certificate(spec, certificate, monkeypatch)
    await receiver.stop()
    assert receiver.events() == [[1]]


async def test_redis_must_have_a_trusted_certificate(
    redis_server: ServerStarter, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    key = str(certificate.with_suffix(".key"))
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", key, "--tls-ca-cert-file", str(certificate)]
    plain = redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *files).port
    spec = {"type": "redis", "url": f"rediss://127.0.0.1:{port}"}
    await assert_requires_a_trusted_certificate(spec, certificate, monkeypatch)
    assert entries(plain) == [1]


async def test_a_broker_must_have_a_trusted_certificate(
    broker: ServerStarter, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [f"certfile {certificate}", f"keyfile {certificate.with_suffix('.key')}"]
    port = broker("allow_anonymous true", "user root", *files).port
    spec = {"type": "mqtt", "url": f"mqtts://127.0.0.1:{port}"}
    await assert_requires_a_trusted_certificate(spec, certificate, monkeypatch)
