"""scripts/deploy.py, before a dashboard and an application that answer what a test tells them to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scripts import deploy as script
from scripts.deploy import Refused, check_changed, deploy, settled_models
from serve_app.schemas import ModelStatus
from serve_app.types import Json

CONFIG: Json = {"applications": [{"name": "sightline", "import_path": "serve_app.app:build_app"}]}


class Told:
    """Answers each path with what is told for it, one after the other, and the last one again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.put: list[Json] = []
        self.url = ""

    def next(self, path: str) -> tuple[int, Any]:
        told = self.answers[path]
        return told.pop(0) if len(told) > 1 else told[0]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setattr(script, "_LOOK_PERIOD_S", 0.01)
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status_code, body = told.next(self.path)
            self.send_response(status_code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_PUT(self) -> None:
            told.put.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    server.server_close()


def applications(status: str, message: str = "") -> tuple[int, Json]:
    return 200, {"applications": {"sightline": {"status": status, "message": message}}}


def models(state: str, refused_change: str = "") -> tuple[int, Json]:
    status = ModelStatus(name="default", state=state, model="codes", refused_change=refused_change)
    return 200, {"models": [status.model_dump()]}


def test_it_waits_until_the_application_runs_as_the_config_says(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [applications("DEPLOYING"), applications("RUNNING")]}
    deploy(CONFIG, told.url)
    assert told.put == [CONFIG]
    assert told.answers["/api/serve/applications/"] == [applications("RUNNING")]


def test_what_serve_cannot_deploy_is_said(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [applications("DEPLOY_FAILED", "no such deployment")]}
    with pytest.raises(Refused, match="sightline cannot be deployed: no such deployment"):
        deploy(CONFIG, told.url)


def test_a_dashboard_that_wants_another_token_is_said(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [(401, "a token is missing")]}
    with pytest.raises(Refused, match=r"answers 401: .*a token is missing"):
        deploy(CONFIG, told.url)


def test_it_waits_until_no_model_is_being_changed(told: Told) -> None:
    told.answers = {"/models": [models("changing"), models("changing"), models("ready")]}
    (model,) = settled_models(told.url)
    assert model.state == "ready"
    check_changed([model])


def test_a_model_that_goes_on_as_it_was_is_said(told: Told) -> None:
    told.answers = {"/models": [models("ready", "OpenVINO cannot read broken.onnx")]}
    with pytest.raises(Refused, match=r"default goes on as it was: OpenVINO cannot read broken\.onnx"):
        check_changed(settled_models(told.url))
