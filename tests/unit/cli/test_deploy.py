"""Tests of ``sightline deploy`` with a fake dashboard and a fake application, whose answers each test sets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.deploy import apply_config, check_changed, dashboard, settled_models
from serve_app.cli.errors import CommandFailed
from serve_app.cli.server import connect
from serve_app.client import Client
from serve_app.schemas.models import ModelStatus
from serve_app.types import Json

CONFIG: Json = {"applications": [{"name": "sightline", "import_path": "serve_app.app:build_app"}]}


class FakeServer:
    """A server with a list of answers for each path. It sends them in order, and then repeats the last answer."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.put: list[Json] = []
        self.url = ""

    def next(self, path: str) -> tuple[int, Any]:
        answers = self.answers[path]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr("serve_app.cli.deploy._POLL_INTERVAL_S", 0.01)
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status_code, body = fake.next(self.path)
            self.send_response(status_code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_PUT(self) -> None:
            fake.put.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever).start()
    fake.url = f"http://127.0.0.1:{listening.server_port}"
    yield fake
    listening.shutdown()
    listening.server_close()


def applications(status: str, message: str = "", **deployments: Json) -> tuple[int, Json]:
    return 200, {"applications": {"sightline": {"status": status, "message": message, "deployments": deployments}}}


def models(state: str, refused_change: str = "") -> tuple[int, Json]:
    status = ModelStatus(name="default", state=state, model="codes", refused_change=refused_change)
    return 200, {"models": [status.model_dump()]}


def test_it_waits_until_the_application_runs_as_the_config_says(server: FakeServer) -> None:
    server.answers = {"/api/serve/applications/": [applications("DEPLOYING"), applications("RUNNING")]}
    apply_config(CONFIG, server.url)
    assert server.put == [CONFIG]
    assert server.answers["/api/serve/applications/"] == [applications("RUNNING")]


def test_progress_is_reported_only_when_it_changes(server: FakeServer) -> None:
    ingress, detector = {"status": "HEALTHY", "message": ""}, {"status": "UPDATING", "message": "no room"}
    waiting = applications("DEPLOYING", Ingress=ingress, Detector=detector)
    server.answers = {"/api/serve/applications/": [waiting, waiting, applications("RUNNING")]}
    reports: list[str] = []
    apply_config(CONFIG, server.url, reports.append)
    assert reports == ["sightline: DEPLOYING Detector UPDATING (no room)"]


def test_the_token_is_found_where_ray_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert dashboard("http://127.0.0.1").headers["Authorization"] == "Bearer from a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from the shell")
    assert dashboard("http://127.0.0.1").headers["Authorization"] == "Bearer from the shell"


def test_a_failed_deployment_is_reported(server: FakeServer) -> None:
    server.answers = {"/api/serve/applications/": [applications("DEPLOY_FAILED", "no such deployment")]}
    with pytest.raises(CommandFailed, match="sightline cannot be deployed: no such deployment"):
        apply_config(CONFIG, server.url)


def test_a_refused_token_is_reported(server: FakeServer) -> None:
    server.answers = {"/api/serve/applications/": [(401, "a token is missing")]}
    with pytest.raises(CommandFailed, match=r"returned 401: .*a token is missing"):
        apply_config(CONFIG, server.url)


def test_a_missing_api_key_is_reported_with_the_variable_that_sets_it(server: FakeServer) -> None:
    server.answers = {"/models": [(401, {"code": "unauthorized"})]}
    with pytest.raises(CommandFailed, match="needs an API key: set SIGHTLINE_KEY"), connect(server.url) as client:
        settled_models(client)


def test_it_waits_until_no_model_is_being_changed(server: FakeServer) -> None:
    server.answers = {"/models": [models("changing"), models("changing"), models("ready")]}
    (model,) = settled_models(Client(server.url))
    assert model.state == "ready"
    check_changed([model])


def test_an_unavailable_model_is_polled_until_the_timeout(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = {"/models": [(503, {"code": "unavailable"}), models("unavailable"), models("ready")]}
    (model,) = settled_models(Client(server.url))
    assert model.state == "ready"
    monkeypatch.setattr("serve_app.cli.deploy._STATUS_TIMEOUT_S", 0.0)
    server.answers = {"/models": [models("unavailable")]}
    with pytest.raises(CommandFailed, match="the outcome is unknown: default did not answer"):
        settled_models(Client(server.url))


def test_a_refused_change_is_reported(server: FakeServer) -> None:
    server.answers = {"/models": [models("ready", "OpenVINO cannot read broken.onnx")]}
    with pytest.raises(CommandFailed, match=r"default was not changed: OpenVINO cannot read broken\.onnx"):
        check_changed(settled_models(Client(server.url)))
