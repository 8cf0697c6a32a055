"""Tests of how ``sightline serve`` finds its weights, and reads configs in locales other than UTF-8."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.launch import free_port
from serve_app.cli.serve import absolute_if_exists
from tests.support.command import sightline
from tests.support.paths import ROOT
from tests.support.stream_server import serve_streams

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}


def refusal(config: Path, **variables: str) -> str:
    """Run the command with a config that it must refuse, and return what it prints."""
    command = [sys.executable, "-m", "serve_app", str(config)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("variables", [ASCII, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_config_is_read_as_utf_8_in_any_locale(tmp_path: Path, variables: dict[str, str]) -> None:
    config = tmp_path / "Prüfstand.yaml"
    text = f"http_options: {{port: {free_port()}}}\napplications: [{{import_path: a:b, Prüfung: 1}}]"
    config.write_text(text, encoding="utf-8")
    sentence = f"{config}: Serve has no setting applications.Prüfung: remove or correct it"
    assert refusal(config, **variables) == sentence


def test_characters_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    config = tmp_path / "Prüfstand.yaml"
    assert refusal(config, PYTHONIOENCODING="ascii").startswith(
        f"{tmp_path}/Pr\\xfcfstand.yaml cannot be read: No such"
    )


@pytest.mark.parametrize("weights", ["", "codes", "yolo26n.pt", "nowhere/best.pt"])
def test_a_name_that_is_not_a_file_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codes").mkdir()
    assert absolute_if_exists(weights) == weights


def test_the_path_of_a_file_is_made_absolute_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "blob").touch()
    (tmp_path / "best.pt").symlink_to("blob")
    assert absolute_if_exists("best.pt") == absolute_if_exists("~/best.pt") == str(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(["--weights", "best.onnx"], {}), ([], {"SERVE_APP_WEIGHTS": "best.onnx"})],
    ids=["option", "variable"],
)
def test_damaged_weights_are_refused_in_one_sentence_from_any_folder(
    tmp_path: Path, arguments: list[str], variables: dict[str, str]
) -> None:
    (tmp_path / "best.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "ray.py").write_text("import os; os.mkdir('trace')")  # no module is imported from the current folder
    env = {"SERVE_APP_STATE_DIR": str(tmp_path / "state"), "RAY_SERVE_ENABLE_HA_PROXY": "0"} | variables
    done = sightline("serve", "--port", str(free_port()), *arguments, cwd=tmp_path, PYTHONPATH=str(ROOT), **env)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert "model.weights" in sentence
    assert "best.onnx" in sentence
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "trace").exists()


def test_a_port_in_use_is_refused_with_the_option_that_sets_another(tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    with socket.create_server(("127.0.0.1", 0)) as other, serve_streams() as served:
        config.write_text(f"http_options: {{host: 127.0.0.1, port: {other.getsockname()[1]}}}\napplications: []")
        for arguments, port, program in (
            ([str(config)], other.getsockname()[1], "another program"),
            ([str(config), "--port", str(served.port)], served.port, "a running Sightline server"),
        ):
            done = sightline("serve", *arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                f"http_options.port: port {port} of 127.0.0.1 is in use by {program}: stop it, or use another port "
                "with --port\n"
            )


def test_a_service_that_is_told_to_stop_says_when_it_has_stopped() -> None:
    """The driver is another program here, because this test must not start Ray."""
    run = "import sys; from serve_app.cli.serve import _run; _run([sys.executable, '-c', sys.argv[1]])"

    def serve(driver: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", run, driver]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with serve("import time; print('ready', flush=True); time.sleep(600)") as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "ready\n"
        stopped.terminate()
        assert stopped.communicate(timeout=60)[1] == "the service has stopped\n"
    with serve("import sys; sys.exit('it failed')") as failed:
        assert failed.communicate(timeout=60)[1] == "it failed\n"
