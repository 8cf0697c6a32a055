"""Tests of ``sightline streams`` with a server whose streams are controlled by the test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.launch import free_port
from serve_app.api.access.keys import make_key
from serve_app.cli.errors import CommandFailed
from serve_app.cli.stream_file import APPLIED, merged, read_specs
from serve_app.cli.streams import split
from serve_app.errors import InvalidParameter, ServeAppError, Unavailable
from serve_app.schemas.scene import SceneHealth
from serve_app.schemas.streams import StreamStatus
from serve_app.streams.outputs.recordings import Recordings, name_at
from serve_app.types import Principal, Snapshot
from tests.support.api import Keys
from tests.support.stream_server import StreamServer, serve_streams

COMMAND = [sys.executable, "-m", "serve_app.cli", "streams"]
CAMERA = {"id": "lot", "source": {"uri": "rtsp://user:secret@camera/1"}}


@pytest.fixture
def served() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


def run(url: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments), "--url", url]
    env = os.environ | environ
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def write(tmp_path: Path, *streams: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "streams.yaml"
    path.write_text(yaml.safe_dump({"streams": list(streams)} | more))
    return path


def apply(served: StreamServer, file: Path, *more: str) -> list[str]:
    done = run(served.url, "apply", file, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_apply_makes_the_running_streams_match_the_file(served: StreamServer, tmp_path: Path) -> None:
    yard = {"id": "yard", "source": {"uri": "rtsp://camera/2"}}
    assert apply(served, write(tmp_path, CAMERA, yard)) == ["lot: started", "yard: started"]
    assert apply(served, write(tmp_path, CAMERA, yard)) == ["lot: unchanged", "yard: unchanged"]
    assert apply(served, write(tmp_path, CAMERA, yard | {"max_fps": 5})) == ["lot: unchanged", "yard: replaced"]
    assert served.streams.specs["yard"].max_fps == 5
    served.streams.failure = InvalidParameter("no class 'unicorn'")
    refused = run(served.url, "apply", write(tmp_path, CAMERA, yard | {"detect": {"classes": ["unicorn"]}}))
    assert "yard: refused: no class 'unicorn'; the running stream was not changed" in refused.stdout
    assert served.streams.specs["yard"].max_fps == 5
    served.streams.failure = None
    assert apply(served, write(tmp_path, CAMERA)) == ["lot: unchanged"]
    served.http.post("/streams", json={"id": "by-hand", "source": {"uri": "a.mp4"}}).raise_for_status()
    assert apply(served, write(tmp_path, CAMERA), "--prune") == ["lot: unchanged", "yard: removed"]
    assert sorted(served.streams.specs) == ["by-hand", "lot"]


@pytest.mark.parametrize("name", ["dock", "admin"])
def test_prune_deletes_only_the_streams_of_its_own_key(tmp_path: Path, name: str) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    header = keys.add(name, "admin" if name == "admin" else "streams")
    file = write(tmp_path, CAMERA)
    with serve_streams({"access": {"keys_file": str(keys.path)}}) as served:
        owners = {"own": name, "foreign": "yard", "nobodys": None}
        for stream_id, owner in owners.items():
            spec = {"id": stream_id, "source": {"uri": "a.mp4"}, "tags": {APPLIED: "0123"}}
            served.http.post("/streams", json=spec, headers=header).raise_for_status()
            served.streams.owners[stream_id] = owner
        key = header["Authorization"].removeprefix("Bearer ")
        done = run(served.url, "apply", file, "--prune", SIGHTLINE_KEY=key)
        assert done.stdout.splitlines() == ["lot: started", "own: removed"]
        assert sorted(served.streams.specs) == ["foreign", "lot", "nobodys"]


def test_defaults_apply_to_each_stream(tmp_path: Path) -> None:
    defaults = {"detect": {"confidence": 0.4, "classes": ["car"]}, "max_fps": 5}
    file = write(tmp_path, CAMERA | {"detect": {"confidence": 0.9}}, defaults=defaults)
    spec = read_specs(file)["lot"]
    assert (spec["detect"], spec["max_fps"]) == ({"confidence": 0.9, "classes": ["car"]}, 5)
    assert merged({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_source_paths_are_relative_to_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    here, elsewhere = ({"id": name, "source": {"uri": name}} for name in ("a.mp4", "b.mp4"))
    specs = read_specs(write(tmp_path, here | {"id": "a"}, elsewhere | {"id": "b"}))
    assert [spec["source"]["uri"] for spec in specs.values()] == [str(tmp_path / "a.mp4"), "b.mp4"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("streams: [{id: a}]", "stream a needs a source"),
        ("streams: [{source: {uri: a}}]", "stream 1 needs a unique id"),
        ("streams: [{id: a, source: {uri: a}}, {id: a, source: {uri: b}}]", "stream a needs a unique id"),
        ("streams: [{id: a, source: {uri: a}, fsp: 3}]", "stream a: fsp"),
        ("streams: {}", "a list"),
        ("stream: []", "is not a file of streams"),
        ("{streams: [], typo: 1}", "remove typo"),
        ("a: [", "is not a file of streams"),
        ("", "is not a file of streams"),
    ],
)
def test_an_invalid_file_is_refused_with_one_sentence_before_anything_is_sent(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "streams.yaml").write_text(text)
    with pytest.raises(CommandFailed, match=sentence):
        read_specs(tmp_path / "streams.yaml")


def test_a_stream_that_fails_at_its_start_is_deleted(served: StreamServer) -> None:
    served.streams.latest = StreamStatus(
        stream_id="lot", state="failed", detail="a.mp4 cannot be read as video", source="a.mp4", policy="wait"
    )
    done = run(served.url, "start", "--id", "lot", "--source", "a.mp4")
    assert (done.returncode, done.stderr) == (1, "stream lot: a.mp4 cannot be read as video\n")
    assert served.streams.specs == {}


def test_streams_are_paused_resumed_and_stopped(served: StreamServer) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    assert run(served.url, "pause", "lot").stdout == "stream lot is paused\n"
    assert "paused" in run(served.url, "list").stdout
    assert run(served.url, "resume", "lot").stdout == "stream lot is running\n"
    assert run(served.url, "stop", "lot").stdout == "stream lot stopped\n"
    assert run(served.url, "stop", "lot").stderr == "stream 'lot' does not exist\n"


def test_status_is_printed_and_frames_are_saved(served: StreamServer, tmp_path: Path) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    assert json.loads(run(served.url, "show", "lot").stdout)["state"] == "running"
    assert "no frame is available" in run(served.url, "frame", "lot", "--output", tmp_path / "a.jpg").stderr
    served.streams.shots = {"drawn": Snapshot(7, b"drawn"), "plain": Snapshot(7, b"plain")}
    assert "frame 7" in run(served.url, "frame", "lot", "--output", tmp_path / "a.jpg").stdout
    run(served.url, "frame", "lot", "--output", tmp_path / "b.jpg", "--no-boxes")
    assert ((tmp_path / "a.jpg").read_bytes(), (tmp_path / "b.jpg").read_bytes()) == (b"drawn", b"plain")


def test_recorded_clips_are_listed_and_saved_once(served: StreamServer, tmp_path: Path) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    folder, saved = tmp_path / "lot", tmp_path / "saved"
    folder.mkdir()
    names = [f"{name_at(at_s)}.mp4" for at_s in (3, 2, 1)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    served.streams.recorded["lot"] = Recordings(folder, 0)
    assert run(served.url, "recordings", "lot").stdout.split() == names
    for _ in range(2):
        done = run(served.url, "recordings", "lot", "--save", saved)
        assert done.stdout.split() == [str(saved / name) for name in names]
        assert {path.name: path.read_text() for path in saved.iterdir()} == {name: name for name in names}
        (folder / names[0]).write_bytes(b"changed")
    assert "cannot be written" in run(served.url, "recordings", "lot", "--save", folder / names[0]).stderr


def test_zones_and_lines_are_set_from_a_file_and_printed_in_its_format(served: StreamServer, tmp_path: Path) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    regions = {"zones": [], "lines": [{"name": "gate", "start": [0.5, 0.0], "end": [0.5, 1.0], "labels": []}]}
    (tmp_path / "regions.yaml").write_text(yaml.safe_dump(regions))
    assert yaml.safe_load(run(served.url, "regions", "lot", tmp_path / "regions.yaml").stdout) == regions
    assert yaml.safe_load(run(served.url, "regions", "lot").stdout) == regions
    (tmp_path / "regions.yaml").write_text("lines: [{name: gate}]")
    refused = run(served.url, "regions", "lot", tmp_path / "regions.yaml")
    assert (refused.returncode, "lines.0.start" in refused.stderr) == (1, True)


@pytest.fixture
def following(served: StreamServer) -> Iterator[subprocess.Popen[str]]:
    """Print the events of a stream to which events are added all the time."""
    served.http.post("/streams", json=CAMERA).raise_for_status()
    command = [*COMMAND, "events", "lot", "--url", served.url]
    done = threading.Event()

    def add_events() -> None:
        while not done.wait(0.05):
            served.happen()

    adding = threading.Thread(target=add_events)
    adding.start()
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert following.stdout is not None
    assert following.stderr is not None
    try:
        yield following
    finally:
        following.kill()
        following.wait()
        following.stdout.close()
        following.stderr.close()
        done.set()
        adding.join()


def next_event(following: subprocess.Popen[str]) -> int:
    """Return the id of the next event that the command prints."""
    assert following.stdout is not None
    return int(json.loads(following.stdout.readline())["event_id"])


def test_events_continue_after_the_connection_broke(served: StreamServer, following: subprocess.Popen[str]) -> None:
    before = next_event(following)
    served.streams.outages = 3  # the first outage ends the response, and the other two make retries fail
    while served.streams.outages:
        assert following.poll() is None
    assert [next_event(following) for _ in range(100)] == list(range(before + 1, before + 101))


def test_ctrl_c_is_the_usual_end_of_a_command_that_follows_a_stream(following: subprocess.Popen[str]) -> None:
    next_event(following)
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == 0
    assert following.stderr is not None
    assert following.stderr.read() == ""


@pytest.fixture
def changing(served: StreamServer) -> StreamServer:
    """Return a server on which each request for the status of the stream ``lot`` gets the next of these answers."""
    served.http.post("/streams", json=CAMERA).raise_for_status()
    now = StreamStatus(stream_id="lot", state="running", source="camera", policy="wait", camera_fps=25, processed=3)
    answers: Iterator[StreamStatus | ServeAppError] = iter(
        [
            now,
            now.model_copy(update={"uptime_s": 1}),
            Unavailable("the supervisor has died"),
            now.model_copy(update={"processed": 9, "dropped": {"max_fps": 4}, "reconnects": 2}),
            now.model_copy(update={"state": "completed"}),
        ]
    )

    async def status(stream_id: str, who: Principal) -> StreamStatus:
        answer = next(answers)
        if isinstance(answer, ServeAppError):
            raise answer
        return answer

    served.streams.status = status  # type: ignore[method-assign]
    return served


def test_in_a_pipe_a_line_is_printed_when_a_stream_has_changed(changing: StreamServer) -> None:
    done = run(changing.url, "watch", "lot")
    assert (done.returncode, done.stderr) == (0, "the supervisor has died\n")
    lines = done.stdout.splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "lot: running; camera 25.0 fps, processed 0.0, dropped 0.0; frames 3, drops 0",
        "lot: running: 2 reconnects; camera 25.0 fps, processed 0.0, dropped 0.0; frames 9, drops 4 max_fps",
        "lot: completed; camera 25.0 fps, processed 0.0, dropped 0.0; frames 3, drops 0",
    ]


def test_a_stream_whose_camera_sees_nothing_is_listed_with_the_reason(served: StreamServer) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    health = SceneHealth(state="covered", since_at_s=1, detail="clean the lens")
    served.streams.latest = StreamStatus(
        stream_id="lot", state="completed", source="camera", policy="wait", scene_health=health
    )
    assert "lot: completed: scene covered: clean the lens;" in run(served.url, "watch", "lot").stdout
    assert "covered" in run(served.url, "list").stdout


def test_each_line_of_json_is_the_status_of_a_stream(changing: StreamServer) -> None:
    lines = [json.loads(line) for line in run(changing.url, "watch", "lot", "--json").stdout.splitlines()]
    assert [(line["state"], line["processed"]) for line in lines] == [("running", 3), ("running", 9), ("completed", 3)]


def test_all_streams_are_listed_as_json(served: StreamServer) -> None:
    served.http.post("/streams", json=CAMERA).raise_for_status()
    (stream,) = json.loads(run(served.url, "list", "--json").stdout)
    assert (stream["stream_id"], stream["state"]) == ("lot", "running")


def test_an_unreachable_server_is_reported_in_one_sentence() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(url, "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"no server responds at {url}: start one with `sightline serve`, or set another URL with --url\n"
    )


def test_the_key_is_sent_to_a_server_that_requires_one(tmp_path: Path) -> None:
    key, entry = make_key("dock", ["streams"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    with serve_streams({"access": {"keys_file": str(tmp_path / "keys.yaml")}}) as served:
        refused = run(served.url, "list")
        assert (refused.returncode, "API key" in refused.stderr) == (1, True)
        done = run(served.url, "list", SIGHTLINE_KEY=key)
        assert done.returncode == 0, done.stderr


def test_classes_are_separated_by_commas_and_quoted_if_they_contain_one() -> None:
    assert split(['"person, sitting",4', "car, bus"]) == ["person, sitting", "4", "car", "bus"]
