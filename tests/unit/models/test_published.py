"""Published models are fetched once from a real HTTPS server, and their hashes are pinned."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ultralytics import YOLO

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models import weights
from serve_app.models.cache import is_locked, locked
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.load import load
from serve_app.models.published import ULTRALYTICS, fetch
from tests.support.release_server import ADDRESS, CHECKPOINT, ReleaseServer, trusted_server
from tests.support.traps import Names

NAME = "yolo26n.pt"
HASH = hashlib.sha256(CHECKPOINT).hexdigest()
OTHER = CHECKPOINT + b"changed"
# A process that fetches the model. Its arguments are the server's host, the folder, and a statement to run before the
# model is fetched.
PROCESS = f"""
    import logging, os, resource, sys
    from ipaddress import ip_network
    from pathlib import Path
    from serve_app.errors import ModelError
    from serve_app.models.published import Release, fetch
    from serve_app.network.address_guard import AddressGuard
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    host, folder, before = sys.argv[1:]
    exec(before)
    guard = AddressGuard((ip_network("{ADDRESS}"),))
    release = Release(f"https://{{host}}/release", frozenset({{host}}), guard=guard)
    try:
        print(fetch("{NAME}", Path(folder), release=release), flush=True)
    except ModelError as exc:
        print(exc, flush=True)
"""


server = pytest.fixture(trusted_server)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the path of the folder for published models, which does not exist yet."""
    return tmp_path / "cache/weights"


def start(server: ReleaseServer, folder: Path, before: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start a process that fetches the model into ``folder``."""
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), server.host, str(folder), before]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_is_fetched_once(server: ReleaseServer, folder: Path) -> None:
    for _ in range(2):
        assert fetch(NAME, folder, release=server.release) == folder / NAME
    assert (folder / NAME).read_bytes() == CHECKPOINT
    assert server.requests == [(f"/release/{NAME}", None)]
    assert names_in(folder) == {NAME, f"{NAME}.sha256", f"{NAME}.lock"}


def test_the_pin_can_be_checked_with_sha256sum(server: ReleaseServer, folder: Path) -> None:
    fetch(NAME, folder, release=server.release)
    checked = subprocess.run(["sha256sum", "--check", f"{NAME}.sha256"], cwd=folder, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, f"{NAME}: OK\n")


def test_a_file_that_was_changed_is_refused(server: ReleaseServer, folder: Path) -> None:
    (folder / fetch(NAME, folder, release=server.release)).write_bytes(OTHER)
    changed = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(ModelError) as refusal:
        fetch(NAME, folder, release=server.release)
    assert refusal.value.detail == (
        f"model.weights: the {NAME} in model.cache_dir has the hash {changed}, but at its first use it had {HASH}: if "
        f"you trust the new file, delete {folder}/{NAME}.sha256"
    )


def test_a_model_that_was_published_again_is_refused(server: ReleaseServer, folder: Path) -> None:
    fetch(NAME, folder, release=server.release).unlink()
    server.content = OTHER
    with pytest.raises(ModelError, match=r"that is published now has the hash .* but at its first use"):
        fetch(NAME, folder, release=server.release)
    assert names_in(folder) == {f"{NAME}.sha256", f"{NAME}.lock"}
    server.content = CHECKPOINT
    fetch(NAME, folder, release=server.release)


def test_a_file_that_a_user_copied_there_is_pinned_at_its_first_use(server: ReleaseServer, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"copied")
    fetch(NAME, folder, release=server.release)
    (folder / NAME).write_bytes(b"changed")
    with pytest.raises(ModelError, match="at its first use"):
        fetch(NAME, folder, release=server.release)
    assert server.requests == []


def test_an_empty_file_is_refused_and_not_pinned(server: ReleaseServer, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).touch()
    with pytest.raises(ModelError, match="is empty"):
        fetch(NAME, folder, release=server.release)
    (folder / NAME).unlink()
    assert fetch(NAME, folder, release=server.release).read_bytes() == server.content


@pytest.mark.parametrize("text", ["", "nonsense", f"{HASH}  yolo26s.pt\n", f"{HASH}\n", f"{HASH[:-1]}  {NAME}\n"])
def test_a_damaged_pin_is_refused(text: str, server: ReleaseServer, folder: Path) -> None:
    fetch(NAME, folder, release=server.release)
    (folder / f"{NAME}.sha256").write_text(text)
    with pytest.raises(ModelError, match=r"sha256 is not a line of sha256sum for yolo26n\.pt: delete or correct it"):
        fetch(NAME, folder, release=server.release)


def test_a_configured_hash_must_match_too(server: ReleaseServer, folder: Path) -> None:
    with pytest.raises(ModelError, match=f"weights_sha256 does not match the published {NAME}, whose hash is {HASH}"):
        fetch(NAME, folder, sha256="0" * 64, release=server.release)
    assert names_in(folder) == {f"{NAME}.lock"}
    fetch(NAME, folder, sha256=HASH.upper(), release=server.release)


def test_an_answer_that_is_no_checkpoint_is_not_pinned(server: ReleaseServer, folder: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(ModelError, match=r"something other than yolo26n\.pt"):
        fetch(NAME, folder, release=server.release)
    assert names_in(folder) == {f"{NAME}.lock"}


def test_a_file_that_is_too_large_is_refused(server: ReleaseServer, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"yolo26n\.pt cannot be fetched \(the file has"):
        fetch(NAME, folder, release=replace(server.release, max_bytes=1000))
    assert names_in(folder) == {f"{NAME}.lock"}


def test_a_machine_without_a_network_is_told_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch)  # makes every host name unknown
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError) as refusal:
        fetch(NAME, folder)
    before, _, after = refusal.value.detail.partition("): ")
    assert before.startswith(f"model.weights: {NAME} cannot be fetched (github.com: the server cannot be reached")
    assert after == (
        f"fetch {ULTRALYTICS.address}/{NAME} on a machine that can, and copy the file to {folder}/{NAME}, or set "
        "model.weights to its path"
    )


def test_two_processes_share_one_download(server: ReleaseServer, folder: Path) -> None:
    server.gate.clear()
    with start(server, folder) as first:
        server.has_begun.wait()
        with start(server, folder) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == f"waiting for another process, which is fetching {NAME}\n"
            server.gate.set()
            assert second.stdout.read().splitlines()[-1] == str(folder / NAME)
        assert first.stdout is not None
        said = first.stdout.read().splitlines()
        assert said == [f"fetching {NAME} (0.5 MB)", f"fetched {NAME}", str(folder / NAME)]
    assert len(server.requests) == 1


def test_a_killed_download_is_continued_by_the_process_that_waits(server: ReleaseServer, folder: Path) -> None:
    server.gate.clear()
    with start(server, folder) as first:
        part = folder / f"{NAME}.part"
        while not (part.exists() and part.stat().st_size):
            server.has_begun.wait()
        with start(server, folder) as second:
            assert second.stdout is not None
            second.stdout.readline()  # says that the second process waits
            first.send_signal(signal.SIGKILL)
            server.gate.set()
            assert second.stdout.read().splitlines()[-1] == str(folder / NAME)
    assert (folder / NAME).read_bytes() == CHECKPOINT
    assert [requested is not None for _, requested in server.requests] == [False, True]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_read_only_cache_is_enough_for_a_model_that_is_there(server: ReleaseServer, public_folder: Path) -> None:
    folder = public_folder / "weights"
    drop = "os.setuid(65534)"
    folder.mkdir(mode=0o755)
    certificate = public_folder / "certificate.pem"
    certificate.write_bytes(server.certificate.read_bytes())
    env = os.environ | {"SSL_CERT_FILE": str(certificate)}
    with start(server, folder, drop, env=env) as process:
        said = process.communicate()[0]
    assert said == (
        f"model.cache_dir: {folder} is not writable (Permission denied): set SERVE_APP_CACHE_DIR to another folder\n"
    )
    fetch(NAME, folder, release=server.release)
    with start(server, folder, drop, env=env) as process:
        assert process.communicate()[0] == f"{folder / NAME}\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_model_that_was_copied_to_a_read_only_cache_is_used_without_a_pin(
    server: ReleaseServer, public_folder: Path
) -> None:
    (public_folder / NAME).write_bytes(b"copied")
    with start(server, public_folder, "os.setuid(65534)") as process:
        said = process.communicate()[0]
    assert said == (
        f"the hash of {NAME} is not pinned, because {public_folder} is not writable\n{public_folder / NAME}\n"
    )


def test_a_lock_file_is_neither_emptied_nor_reached_through_a_link(folder: Path) -> None:
    folder.mkdir(parents=True)
    lock, other = folder / "a.lock", folder / "other"
    lock.write_text("kept")
    with locked(lock):
        assert is_locked(lock)
    assert (lock.read_text(), is_locked(lock)) == ("kept", False)
    lock.rename(other)
    lock.symlink_to(other)
    with pytest.raises(ModelError) as refusal, locked(lock):
        pass
    assert refusal.value.detail == f"model.cache_dir: {lock} is a symbolic link instead of a lock file: delete it"
    assert other.read_text() == "kept"


def test_a_link_in_place_of_a_new_pin_is_replaced(server: ReleaseServer, folder: Path) -> None:
    folder.mkdir(parents=True)
    other = folder / "other"
    other.write_text("kept")
    (folder / f"{NAME}.sha256.new").symlink_to(other)
    fetch(NAME, folder, release=server.release)
    assert (other.read_text(), (folder / f"{NAME}.sha256").is_symlink()) == ("kept", False)


def test_a_full_disk_is_reported_and_left_clean(server: ReleaseServer, folder: Path) -> None:
    """A write beyond a limit on file sizes fails like a write to a full disk, but with another error number."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    with start(server, folder, limit) as process:
        said = process.communicate()[0].splitlines()[-1]
    assert said == (
        f"model.cache_dir: {NAME} cannot be written to {folder} (File too large): free some space there, or set "
        "SERVE_APP_CACHE_DIR to another folder"
    )
    assert names_in(folder) == {f"{NAME}.lock"}


@pytest.fixture
def configured(server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelArgs]:
    """Return a function that makes settings, with a cache in ``tmp_path``. Models are fetched from the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "fetch", partial(fetch, release=server.release))
    return partial(ModelArgs, cache_dir=tmp_path / "cache")


def test_a_published_name_is_fetched_into_the_cache(configured: Callable[..., ModelArgs], folder: Path) -> None:
    args = configured(weights=NAME, weights_sha256=HASH)
    weights.check_weights(args)
    assert weights.find_weights(args, "torch") == folder / NAME


def test_a_published_name_must_have_the_hash_that_is_set(configured: Callable[..., ModelArgs]) -> None:
    weights.find_weights(configured(weights=NAME), "torch")
    with pytest.raises(ModelError, match="does not match"):
        weights.check_weights(configured(weights=NAME, weights_sha256="0" * 64))


def test_a_published_model_serves(configured: Callable[..., ModelArgs], server: ReleaseServer, tmp_path: Path) -> None:
    YOLO("yolo26n.yaml").save(tmp_path / "untrained.pt")
    server.content = (tmp_path / "untrained.pt").read_bytes()
    found = hashlib.sha256(server.content).hexdigest()
    args = configured(weights=NAME, weights_sha256=found, engine="torch", image_size_px=64)
    for _ in range(2):
        assert load(args, has_gpu=False).info.name == "yolo26n"
    assert len(server.requests) == 1


def test_an_existing_file_of_the_name_is_used(
    configured: Callable[..., ModelArgs], server: ReleaseServer, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    assert weights.find_weights(configured(weights=NAME), "torch") == tmp_path / NAME
    assert server.requests == []


def test_a_broken_link_of_the_name_is_refused(
    configured: Callable[..., ModelArgs], server: ReleaseServer, tmp_path: Path
) -> None:
    (tmp_path / NAME).symlink_to("gone.pt")
    args = configured(weights=NAME)
    with pytest.raises(ModelError) as refusal:
        weights.find_weights(args, "torch")
    assert refusal.value.detail == (
        f"model.weights: {NAME} is a link to {tmp_path}/gone.pt, which does not exist: correct or delete the link"
    )
    assert (server.requests, weights.is_not_fetched_yet(args)) == ([], False)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/nowhere/yolo26n.pt", "there is no /nowhere/yolo26n.pt; check the path, or set it to yolo26n.pt alone"),
        ("yolo26n-sem.pt", "is not supported: use a model such as yolo26n.pt"),
        ("yolov11n.pt", "check the path; if you mean the published model yolo11n.pt, set that name"),
        ("https://github.com/ultralytics/assets/releases/download/v8.4.0/yolo26n.pt", "by their name"),
    ],
)
def test_a_path_that_does_not_exist_is_explained(
    value: str, says: str, configured: Callable[..., ModelArgs], server: ReleaseServer
) -> None:
    with pytest.raises(ModelError) as refusal:
        weights.check_weights(configured(weights=value))
    assert says in refusal.value.detail
    assert server.requests == []


def test_ultralytics_never_gets_a_missing_file(folder: Path) -> None:
    """Ultralytics would download a missing file of this name by itself."""
    with pytest.raises(ModelError, match=r"there is no yolo26n\.pt"):
        load_network(folder / NAME)


def test_a_log_has_two_lines_about_a_download(
    server: ReleaseServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "serve_app"):
        fetch(NAME, folder, release=server.release)
    assert caplog.messages == [f"fetching {NAME} (0.5 MB)", f"fetched {NAME}"]
