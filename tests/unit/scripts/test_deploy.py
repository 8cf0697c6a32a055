"""scripts/deploy.py, before a dashboard and an application that answer what a test tells them to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import deploy as script
from scripts.deploy import DeployRefused, check_changed, deploy, settled_models
from serve_app.client import Client
from serve_app.schemas.models import ModelStatus
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


def applications(status: str, message: str = "", **deployments: Json) -> tuple[int, Json]:
    return 200, {"applications": {"sightline": {"status": status, "message": message, "deployments": deployments}}}


def models(state: str, refused_change: str = "") -> tuple[int, Json]:
    status = ModelStatus(name="default", state=state, model="codes", refused_change=refused_change)
    return 200, {"models": [status.model_dump()]}


def test_it_waits_until_the_application_runs_as_the_config_says(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [applications("DEPLOYING"), applications("RUNNING")]}
    deploy(CONFIG, told.url)
    assert told.put == [CONFIG]
    assert told.answers["/api/serve/applications/"] == [applications("RUNNING")]


def test_what_it_waits_for_is_said_once(told: Told) -> None:
    ingress, detector = {"status": "HEALTHY", "message": ""}, {"status": "UPDATING", "message": "no room"}
    waiting = applications("DEPLOYING", Ingress=ingress, Detector=detector)
    told.answers = {"/api/serve/applications/": [waiting, waiting, applications("RUNNING")]}
    heard: list[str] = []
    deploy(CONFIG, told.url, heard.append)
    assert heard == ["sightline: DEPLOYING Detector UPDATING (no room)"]


def test_the_token_is_the_one_that_ray_would_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert script.dashboard("http://127.0.0.1").headers["Authorization"] == "Bearer of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the shell")
    assert script.dashboard("http://127.0.0.1").headers["Authorization"] == "Bearer of the shell"


def test_what_serve_cannot_deploy_is_said(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [applications("DEPLOY_FAILED", "no such deployment")]}
    with pytest.raises(DeployRefused, match="sightline cannot be deployed: no such deployment"):
        deploy(CONFIG, told.url)


def test_a_dashboard_that_wants_another_token_is_said(told: Told) -> None:
    told.answers = {"/api/serve/applications/": [(401, "a token is missing")]}
    with pytest.raises(DeployRefused, match=r"answers 401: .*a token is missing"):
        deploy(CONFIG, told.url)


def test_it_waits_until_no_model_is_being_changed(told: Told) -> None:
    told.answers = {"/models": [models("changing"), models("changing"), models("ready")]}
    (model,) = settled_models(Client(told.url))
    assert model.state == "ready"
    check_changed([model])


def test_a_model_that_does_not_answer_is_asked_again_for_a_while(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.answers = {"/models": [(503, {"code": "unavailable"}), models("unavailable"), models("ready")]}
    (model,) = settled_models(Client(told.url))
    assert model.state == "ready"
    monkeypatch.setattr(script, "_AVAILABLE_WITHIN_S", 0.0)
    told.answers = {"/models": [models("unavailable")]}
    with pytest.raises(DeployRefused, match="nothing is heard of default"):
        settled_models(Client(told.url))


def test_a_model_that_goes_on_as_it_was_is_said(told: Told) -> None:
    told.answers = {"/models": [models("ready", "OpenVINO cannot read broken.onnx")]}
    with pytest.raises(DeployRefused, match=r"default goes on as it was: OpenVINO cannot read broken\.onnx"):
        check_changed(settled_models(Client(told.url)))
