"""Tests of how the environment and the limits of the process are prepared for Ray."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from scripts.launch import free_port
from serve_app.cli.surroundings import check_path, make_token, ray_folder, reserve_port, without_proxies
from serve_app.errors import ConfigError

SOCKET_PATH_BYTES = 107  # unix(7)
RAYS_LONGEST = "/ray/session_2026-11-28_18-00-33_222873_4194304/sockets/plasma_store.1"


def in_a_process(code: str, *starter: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in its own process, because limits and the environment belong to a process."""
    command = [*starter, sys.executable, "-c", f"from serve_app.cli import surroundings as s\n{code}"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def no_folders_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_two_services_on_one_machine_use_different_ports_for_serves_own_proxy() -> None:
    """Serve's proxies set SO_REUSEPORT. On a shared port, each proxy would also get the other service's requests."""
    with reserve_port(free_port()) as one, reserve_port(one) as other:
        assert other != one
        for port in (one, other):
            with socket.socket() as proxy:
                proxy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                proxy.bind(("127.0.0.1", port))
                proxy.listen()
                for _ in range(8):  # the socket that reserves the port accepts no connections
                    socket.create_connection(("127.0.0.1", port)).close()
                    proxy.accept()[0].close()


@pytest.mark.parametrize("folder", ["plain", "my project", "it's mine", 'the "new" one', "a$b#c", "Prüfstand 📷"])
def test_ray_understands_most_paths(folder: str) -> None:
    check_path(f"/srv/{folder}/.venv/bin/python")


@pytest.mark.parametrize("folder", ["o'brien", "a\\b"])
def test_a_path_that_ray_would_misread_is_refused_with_one_sentence(folder: str) -> None:
    with pytest.raises(ConfigError, match="has an apostrophe or a backslash: move"):
        check_path(f"/srv/{folder}/.venv/bin/python")


@pytest.mark.parametrize("length", [38, 90, 200])
def test_ray_does_not_use_a_tmpdir_in_which_socket_paths_are_too_long(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = f"{public_folder}/".ljust(length, "t")
    monkeypatch.setenv("TMPDIR", folder)
    assert len(f"{ray_folder()}{RAYS_LONGEST}") <= SOCKET_PATH_BYTES


def test_ray_uses_a_short_tmpdir_even_if_it_does_not_exist_yet(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", f"{public_folder}/a b")
    assert ray_folder() == public_folder / "a b"
    assert list((public_folder / "a b/ray").iterdir()) == []


def test_ray_does_not_use_a_tmpdir_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")
    assert str(ray_folder()) != "/proc"


@pytest.mark.parametrize(
    ("folder", "says"),
    [("/tmp/" + "t" * 60, "too long"), ("/proc", "cannot be written"), ("ray", "not an absolute path")],
)
def test_an_unusable_ray_tmpdir_is_refused_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, folder: str, says: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(ConfigError, match=f"^RAY_TMPDIR: {folder} .*{says}.*: set RAY_TMPDIR to"):
        ray_folder()


@pytest.mark.parametrize("length", [60, 76, 200])
def test_tmpdir_is_short_enough_for_pythons_own_sockets(public_folder: Path, length: int) -> None:
    folder = public_folder / ("t" * (length - len(f"{public_folder}/")))
    folder.mkdir()
    code = (
        "import multiprocessing.connection, tempfile\n"
        "s.shorten_tmpdir('/tmp', print)\n"
        "multiprocessing.connection.Listener(family='AF_UNIX').close()\n"
        "print(tempfile.gettempdir())"
    )
    *said, used = in_a_process(code, TMPDIR=str(folder)).stdout.splitlines()
    assert (len(said), used) == ((0, str(folder)) if length == 60 else (1, "/tmp"))


def test_a_long_tmpdir_that_is_still_to_be_made_is_shortened_too(public_folder: Path) -> None:
    """If the folder in TMPDIR does not exist, Ray creates it. The folder's path must therefore be short, too."""
    done = in_a_process("s.shorten_tmpdir('/tmp', print)", TMPDIR=str(public_folder / ("t" * 200)))
    assert "TMPDIR is too long" in done.stdout


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "https_proxy", "grpc_proxy"])
@pytest.mark.parametrize("known", [{}, {"NO_PROXY": "intern.example"}, {"no_proxy": "localhost, intern.example"}])
def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch, name: str, known: dict[str, str]) -> None:
    environment = {name: "http://proxy.example:3128"} | known
    monkeypatch.setattr(os, "environ", environment | without_proxies(environment))
    bypassed = [host for host in ("127.0.0.1", "localhost", "intern.example", "other.example") if bypasses(host)]
    assert bypassed == ["127.0.0.1", "localhost", *(["intern.example"] if known else [])]


def bypasses(host: str) -> bool:
    return bool(urllib.request.proxy_bypass(host))


@pytest.mark.parametrize("known", ["*", " * ", "*,intern.example"])
def test_a_star_in_no_proxy_excludes_every_host(monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """Python supports ``*`` only as the whole value of the variable."""
    environment = {"HTTP_PROXY": "http://proxy.example:3128", "NO_PROXY": known}
    monkeypatch.setattr(os, "environ", environment | without_proxies(environment))
    assert all(bypasses(host) for host in ("127.0.0.1", "other.example"))
    assert "127.0.0.1" in without_proxies(environment)["no_grpc_proxy"].split(",")  # gRPC does not support ``*``


def test_without_a_proxy_no_variable_is_set() -> None:
    assert without_proxies({"NO_PROXY": "a"}) == {}


@pytest.mark.parametrize("named", ["", "a/token"])
def test_rays_token_is_readable_only_by_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / named))
    file = tmp_path / (named or ".ray/auth_token")
    make_token(pytest.fail)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text()
    assert len(token) >= 32
    make_token(pytest.fail)
    assert file.read_text() == token


def test_a_token_that_ray_made_readable_for_everybody_becomes_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("token")
    file.chmod(0o644)
    make_token(pytest.fail)
    assert (stat.S_IMODE(file.stat().st_mode), file.read_text()) == (0o600, "token")


def test_without_a_writable_home_the_token_lasts_only_for_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    said: list[str] = []
    make_token(said.append)
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    assert "RAY_AUTH_TOKEN_PATH" in said[0]
    assert os.environ["RAY_AUTH_TOKEN"] not in said[0]


def test_the_limit_of_open_files_is_raised_to_the_hard_limit() -> None:
    code = "import resource; s.raise_open_files(print); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = in_a_process(code, "prlimit", "--nofile=256:4096", RAY_SERVE_ENABLE_HA_PROXY="1")
    said, limits = done.stdout.splitlines()
    assert said.startswith("a process may open 4096 files here, so HAProxy accepts fewer")
    assert limits == "(4096, 4096)"


def test_too_low_a_limit_of_open_files_is_refused_with_one_sentence() -> None:
    done = in_a_process("s.raise_open_files(print)", "prlimit", "--nofile=512:512")
    assert "ConfigError: a process may open 512 files here, but 1024 are needed: " in done.stderr


def test_haproxys_files_are_in_a_folder_that_is_deleted_after_the_run() -> None:
    code = (
        "import os\n"
        "with s.prepare_environment(print):\n"
        "    socket = os.environ['RAY_SERVE_HAPROXY_SOCKET_PATH']\n"
        "    print(socket, oct(os.stat(os.path.dirname(socket)).st_mode & 0o777))\n"
        "print(os.path.exists(os.path.dirname(socket)))"
    )
    path, mode, is_left = in_a_process(code).stdout.split()
    node = "0" * 56  # Serve puts a node id between the folder and the file
    longest = f"{Path(path).parent}/{node}/admin.sock.4194304"
    assert (mode, is_left, len(longest) <= SOCKET_PATH_BYTES) == ("0o700", "False", True)
