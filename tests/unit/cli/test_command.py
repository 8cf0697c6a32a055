"""Tests of the whole command ``sightline``: its help, its exit statuses, and the packages that it imports."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from scripts.launch import free_port
from serve_app.cli import deploy, server
from serve_app.cli.command import app
from serve_app.client.connection import DEFAULT_URL
from tests.support.command import sightline
from tests.support.paths import ROOT
from tests.support.stream_server import StreamServer, serve_streams

SLOW_PACKAGES = {"ray", "torch", "cv2", "ultralytics", "openvino", "fastapi"}
REPORT_IMPORTS = """
import sys
from serve_app.cli.command import main
try:
    main(sys.argv[1:])
except SystemExit as exc:
    assert not exc.code, exc.code
print(*sys.modules, file=sys.stderr)
"""


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words of each command and group of ``sightline``, and the object that describes it."""
    group = group or typer.main.get_command(app)
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands())


@pytest.fixture
def served() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


def test_the_command_has_every_command_that_it_should() -> None:
    lifecycle = {"start", "apply", "watch", "list", "events", "show", "frame", "regions", "pause", "resume", "stop"}
    lifecycle |= {"recordings"}
    expected = {(), ("streams",), ("models",), ("keys",), ("keys", "new"), *(("streams", one) for one in lifecycle)}
    expected |= {(one,) for one in ("serve", "detect", "deploy", "doctor")}
    assert expected <= COMMANDS.keys()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_ends_with_examples_that_the_command_understands(path: tuple[str, ...]) -> None:
    lines = COMMANDS[path].epilog.split("Examples:\n")[1].splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.strip().removeprefix("KEY=$(").removesuffix(")"))
        assert words[0] == "sightline"
        own: tuple[str, ...] = ()
        command = COMMANDS[own]
        while hasattr(command, "commands") and len(words) > 1 and words[1] in command.commands:
            own = (*own, words.pop(1))
            command = command.commands[own[-1]]
        assert own[: len(path)] == path
        command.make_context("sightline", words[1:])  # raises an error for a wrong option or argument


def test_help_is_printed_in_full_sentences_with_examples() -> None:
    done = sightline("detect", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Detect objects in images, and print them." in done.stdout
    assert "\n    sightline detect dock.jpg\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["serve", "local", "gpu"], "unexpected extra argument"),
        (["detect"], "Missing argument 'IMAGE'"),
        (["streams", "start", "--id", "lot"], "Missing option '--source'"),
        (["streams", "list", "--url", "dock"], "url: expected http://… or https://…"),
        (["keys", "new", "dock", "unicorn"], "unicorn is not a permission: use detect, streams, jobs, admin"),
        (["keys", "new", "a b", "detect"], "'a b' is not a name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_has_status_2(arguments: list[str], sentence: str) -> None:
    done = sightline(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: sightline ")
    assert sentence in done.stderr


@pytest.mark.parametrize(
    "arguments", [["detect", __file__], ["streams", "watch"], ["models"], ["deploy", "local"]], ids=" ".join
)
def test_a_missing_server_is_reported_in_one_sentence_that_says_how_to_start_one(arguments: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = sightline(*arguments, SIGHTLINE_URL=url, RAY_DASHBOARD_ADDRESS=url)
    assert (done.returncode, done.stdout.strip()) == (1, "")
    (sentence,) = done.stderr.splitlines()
    assert url in sentence
    assert "`sightline serve`" in sentence


def test_the_default_server_in_the_help_is_that_of_the_client() -> None:
    assert DEFAULT_URL in Path(server.__file__).read_text()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_help_imports_a_slow_package(path: tuple[str, ...]) -> None:
    assert imported(*path, "--help") & (SLOW_PACKAGES | {"httpx", "numpy"}) == set()


def test_commands_that_use_a_server_import_no_slow_package(served: StreamServer, tmp_path: Path) -> None:
    picture = tmp_path / "dock.jpg"
    picture.write_bytes(b"1")
    for arguments in (["detect", str(picture)], ["models"], ["streams", "list"]):
        modules = imported(*arguments, "--url", served.url)
        assert "httpx" in modules
        assert modules & SLOW_PACKAGES == set()


def imported(*arguments: str) -> set[str]:
    """Run a command that succeeds, and return the names of the top-level packages that it has imported."""
    command = [sys.executable, "-c", REPORT_IMPORTS, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    ("script", "words"), [("streams.py", "Usage: sightline streams"), ("deploy.py", "Usage: sightline deploy")]
)
def test_a_script_is_a_door_to_the_same_command(script: str, words: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith(words)


def test_the_module_deploy_reads_the_environment_variable_of_ray() -> None:
    assert "RAY_DASHBOARD_ADDRESS" in Path(deploy.__file__).read_text()
