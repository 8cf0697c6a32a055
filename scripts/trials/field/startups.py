"""Start the service on unusual machines, and check that the service either works or says what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2

from scripts.codes import samples
from scripts.launch import ROOT, StartFailed, StopFailed, environment, free_port, read_log, start
from scripts.trials.cluster import until

Problem = Callable[[str], str | None]  # see ``Case``
Variables = Mapping[str, str | None]

CONFIG = "configs/local.yaml"
_REFUSED_WITHIN_S = 120.0  # Python needs most of this time to import Ray
_STREAM_WITHIN_S = 60.0
_SCRIPT_WITHIN_S = 60.0
_CARRIED = "serve_app", "configs", "scripts", "pyproject.toml"  # the parts of a checkout that the service needs


def within(setup: str) -> list[str]:
    """Return a command prefix that runs ``setup`` before a program. ``setup`` may change mounts and the host name.

    The changes affect only that program. No root privileges are needed if the kernel allows users to create
    namespaces.
    """
    return ["unshare", "--map-root-user", "--mount", "--uts", "sh", "-c", f'{setup} && exec "$@"', "sh"]


def limited(open_files: int) -> list[str]:
    """Return a command prefix that runs a program with a hard limit of ``open_files`` open files."""
    return ["prlimit", f"--nofile={open_files}:{open_files}"]


def refused(
    *words: str,
    starter: Sequence[str] = (),
    below: str | None = None,
    config: str | None = None,
    env: Variables = MappingProxyType({}),
    **variables: str | None,
) -> Problem:
    """Return a function that checks that the service refuses to start.

    The last line of the service's output must contain the text ``words``, and the output must have no traceback.
    If ``below`` is given, the service runs from a copy of the checkout in a folder of this name. ``config`` is the text
    of the config to use instead of configs/local.yaml. ``starter`` is a command prefix. ``env`` and ``variables`` are
    environment variables.
    """

    def problem(_: str) -> str | None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = checkout(folder / below) if below else ROOT
            path = folder / "config.yaml"
            path.write_bytes((ROOT / CONFIG).read_bytes() if config is None else config.encode())
            python = str(root / ".venv/bin/python") if below else sys.executable
            command = [*starter, python, "-m", "serve_app", str(path), "--port", str(free_port())]
            ours = {"RAY_ADDRESS": "local", "SERVE_APP_STATE_DIR": f"{folder}/state", "PYTHONPATH": str(root)}
            # Another service on this machine may use HAProxy's default ports.
            ours |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
            done = subprocess.run(
                command,
                env=environment({**ours, **env, **variables}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_REFUSED_WITHIN_S,
                check=False,
            )
        text = done.stdout.decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else ""
        if done.returncode != 1 or "Traceback" in text or not all(word in last for word in words):
            return (
                f"exit status {done.returncode}, {text.count('Traceback')} tracebacks; the last line is: {last[:300]}"
            )
        return None

    return problem


def serves(
    *says: str,
    starter: Sequence[str] = (),
    below: str | None = None,
    config: str | None = None,
    env: Variables = MappingProxyType({}),
    **variables: str | None,
) -> Problem:
    """Return a function that checks that the service starts, detects codes in an image and completes a stream.

    The stream has three images. The log must contain the text ``says``. If ``below`` is given, the service runs from
    a copy of the checkout in a folder of this name. ``config`` is appended to configs/local.yaml. ``starter`` is a
    command prefix. ``env`` and ``variables`` are environment variables. In the values of these variables, ``{folder}``
    stands for a temporary folder.
    """

    def problem(_: str) -> str | None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = checkout(folder / below) if below else ROOT
            path = folder / "config.yaml"
            path.write_bytes((ROOT / CONFIG).read_bytes() + (config or "").encode())
            media = save_pictures(folder / "media")
            ours = {"SERVE_APP_MEDIA_DIRS": str(media.parent), "PYTHONPATH": str(root)}
            theirs = {key: value and value.replace("{folder}", name) for key, value in {**env, **variables}.items()}
            log = folder / "log"
            server = start(path, log, root=root, variables={**ours, **theirs}, starter=starter)
            try:
                server.wait_until_ready()
                found = len(server.client.detect(encoded(0)))
                server.client.streams.create({"id": "field", "source": {"uri": str(media)}})
                until(
                    lambda: server.client.streams.status("field").state in {"completed", "failed"},
                    within_s=_STREAM_WITHIN_S,
                    what="the stream to end",
                )
                stream = server.client.streams.status("field")
                server.client.streams.delete("field")
            except StartFailed:
                return f"the service does not start: {read_log(log).strip()[-500:]}"
            finally:
                stop_problem = _stop(server.stop)
            said = read_log(log)
        if not found:
            return "nothing is detected in an image with codes"
        if (stream.state, stream.processed, stream.restarts) != ("completed", 3, 0):
            return f"a stream of 3 images is {stream.state} after {stream.processed} images: {stream.detail}"
        missing = [words for words in says if words not in said]
        return stop_problem or (f"the log lacks {missing}" if missing else None)

    return problem


def command(*arguments: str, env: Variables = MappingProxyType({}), **variables: str | None) -> Problem:
    """Return a function that runs a command of ``sightline`` and checks that the exit status is 0.

    The command gets the server's URL in its option ``--url``.
    """

    def problem(url: str) -> str | None:
        sightline = [sys.executable, "-m", "serve_app.cli", *arguments, "--url", url]
        ours = environment({"PYTHONPATH": str(ROOT), **env, **variables})
        done = subprocess.run(sightline, env=ours, capture_output=True, timeout=_SCRIPT_WITHIN_S, check=False)
        return (
            f"exit status {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}" if done.returncode else None
        )

    return problem


def _stop(stop: Callable[[], None]) -> str | None:
    try:
        stop()
    except StopFailed as exc:
        return str(exc)
    return None


def checkout(folder: Path) -> Path:
    """Copy this checkout into ``folder``, link the virtual environment there, and return the folder."""
    folder.mkdir(parents=True)
    for name in _CARRIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    # scripts/serve updates the environment if pyproject.toml is newer than the environment.
    os.utime(folder / "pyproject.toml", (0, 0))
    return folder


def save_pictures(folder: Path) -> Path:
    """Save three images with codes, and return their folder."""
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(number))
    return folder


def encoded(number: int) -> bytes:
    """Return an image with codes as a JPEG."""
    return cv2.imencode(".jpg", samples.belt_frame(number).pixels)[1].tobytes()
