from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from serve_app.cli import command
from serve_app.cli import fetch as fetch_module
from serve_app.cli.fetch import ProgressBar, fetch
from serve_app.errors import ConfigError
from tests.support.command import sightline
from tests.support.release_server import CHECKPOINT, ReleaseServer, trusted_server

NAME = "yolo26n.pt"


server = pytest.fixture(trusted_server)


def test_a_model_is_fetched_to_the_place_where_the_service_looks_for_it(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    path = fetch(NAME, release=server.release)
    assert (path, path.read_bytes()) == (tmp_path / "cache/weights" / NAME, CHECKPOINT)


def test_the_command_fetches_into_a_folder_and_prints_only_the_path(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch_module, "fetch", partial(fetch, release=server.release))
    with pytest.raises(SystemExit) as exit_:
        command.main(["models", "fetch", NAME, "--to", str(tmp_path / "images")])
    assert exit_.value.code == 0
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'images' / NAME}\n"
    assert err.startswith(f"fetching {NAME} (0.5 MB)\n")


def test_a_wrong_setting_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_CONFIDENCE", "7")
    with pytest.raises(ConfigError, match=r"detect\.confidence"):
        fetch(NAME)


def test_the_command_exits_with_one_sentence(tmp_path: Path) -> None:
    done = sightline("models", "fetch", "yolov26n.pt", "--to", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "model.weights: Ultralytics publishes no model yolov26n.pt; if you mean the published model "
        "yolo26n.pt, set that name\n"
    )


def test_the_bar_leaves_the_cursor_visible_while_it_runs() -> None:
    """The process that serves may be killed during a download, and could then not show the cursor again."""
    terminal = io.StringIO()
    bar = ProgressBar(Console(file=terminal, force_terminal=True))
    bar.update(NAME, 0, 2_000_000)
    drawn = terminal.getvalue()
    bar.update(NAME, 2_000_000, 2_000_000)
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert "2.0/2.0 MB" in terminal.getvalue()


def test_waiting_for_another_process_is_announced() -> None:
    output = io.StringIO()
    ProgressBar(Console(file=output)).wait(NAME)
    assert output.getvalue() == f"waiting for another process, which is fetching {NAME}\n"
