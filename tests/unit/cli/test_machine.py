"""Tests of the checks of ``sightline doctor`` that look at the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.cli import machine
from tests.support.paths import ROOT


def test_cores_are_compared_with_the_cores_that_the_config_needs() -> None:
    assert machine.cores(2, 0.85).mark == "ok"
    assert machine.cores(2, 6.05).mark == "missing"


def test_little_memory_is_a_warning() -> None:
    assert machine.memory("MemTotal: 9 kB\nMemAvailable:   21277708 kB\n").found == "20.3 GiB available"
    assert machine.memory("MemAvailable:   1048576 kB\n").mark == "warning"


@pytest.mark.parametrize(
    ("flags", "mark", "found"),
    [
        ("flags\t\t: avx2 avx512f amx_tile amx_bf16", "ok", "AMX, AVX-512, AVX2"),
        ("flags\t\t: avx2 avx512f", "ok", "AVX-512, AVX2"),
        ("flags\t\t: avx avx2", "warning", "AVX2, but neither AMX nor AVX-512"),
        ("Features\t: fp asimd", "warning", "no x86 vector instructions, but neither AMX nor AVX-512"),
    ],
)
def test_the_instructions_of_the_cpu_are_named(flags: str, mark: str, found: str) -> None:
    finding = machine.vectors(f"processor: 0\n{flags}\n")
    assert (finding.mark, finding.found) == (mark, found)


def install_driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, "echo 'NVIDIA L4, 550.90.07, 23034 MiB'", monkeypatch)
    assert machine.gpu(1).found == "NVIDIA L4, 550.90.07, 23034 MiB"
    assert (machine.gpu(2).mark, machine.gpu(2).found) == ("missing", "1 found, 2 needed")


def test_a_driver_that_fails_is_a_problem_only_if_a_gpu_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, "echo 'Failed to initialize NVML'; exit 18", monkeypatch)
    assert [machine.gpu(needed).mark for needed in (0, 1)] == ["warning", "missing"]
    assert machine.gpu(0).found == "Failed to initialize NVML"


def test_no_driver_is_fine_for_a_config_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [machine.gpu(needed).mark for needed in (0, 1)] == ["ok", "missing"]


def test_shared_memory_is_compared_with_the_frame_pools(tmp_path: Path) -> None:
    assert machine.shared_memory(1 << 20, tmp_path).mark == "ok"
    assert machine.shared_memory(1 << 60, tmp_path).mark == "missing"
    assert "cannot be used" in machine.shared_memory(0, tmp_path / "none").found


@pytest.mark.parametrize(("limit", "mark"), [("512", "missing"), ("1024", "warning"), ("20000", "ok")])
def test_the_hard_limit_of_open_files_decides(limit: str, mark: str) -> None:
    code = "from serve_app.cli import machine; print(machine.open_files().mark)"
    command = ["prlimit", f"--nofile={limit}:{limit}", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{mark}\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Make a folder like /proc with the raylet of a Ray 2.59, a shell, and a process that ended."""
    package = tmp_path / "site-packages/ray"
    (package / "core/src/ray/raylet").mkdir(parents=True)
    (package / "_version.py").write_text('commit = "c0ffee"\nversion = "2.59.0"\n')
    for pid, name in {"41": "raylet", "42": "sh", "43": ""}.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        if name:
            program = package / "core/src/ray/raylet/raylet"
            (tmp_path / "proc" / pid / "comm").write_text(f"{name}\n")
            (tmp_path / "proc" / pid / "cmdline").write_bytes(bytes(program) + b"\0--port=1\0")
    return tmp_path / "proc"


def test_the_version_of_a_running_ray_is_found(proc: Path, tmp_path: Path) -> None:
    assert dict(machine.rays_of_processes(proc)) == {41: "2.59.0"}
    assert machine.running_ray("2.59.0", "", proc).mark == "ok"
    assert machine.running_ray("2.60.0", "", tmp_path / "none").found == "none"


def test_another_version_of_ray_is_a_problem_only_if_the_service_would_join_it(proc: Path) -> None:
    marks = [machine.running_ray("2.60.0", address, proc).mark for address in ("", "local", "127.0.0.1:6379")]
    assert marks == ["warning", "warning", "missing"]


def test_a_folder_that_ray_cannot_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.ray_files("/srv/.venv/bin/python").mark == "ok"
    assert "apostrophe" in machine.ray_files("/srv/o'brien/bin/python").found
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    assert machine.ray_files(sys.executable).found.startswith("RAY_TMPDIR: /proc cannot be written")


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    assert machine.cache_folder(tmp_path / "cache").mark == "ok"
    finding = machine.cache_folder(Path("/proc/cache"))
    assert (finding.mark, "SERVE_APP_CACHE_DIR" in finding.fix) == ("warning", True)


@pytest.mark.parametrize("excluded", [{"no_proxy": "localhost, 127.0.0.1"}, {"NO_PROXY": "*"}])
def test_a_proxy_is_fine_if_it_does_not_get_requests_to_this_machine(excluded: dict[str, str]) -> None:
    proxy = {"HTTPS_PROXY": "http://user:secret@proxy.example:3128"}
    assert machine.proxies(proxy | excluded).mark == "ok"
    finding = machine.proxies(proxy | {"no_proxy": "intern.example"})
    assert (finding.mark, finding.fix) == ("warning", "export no_proxy=intern.example,127.0.0.1,localhost,::1")
    assert "secret" not in finding.found + finding.fix
    assert machine.proxies({"http_proxy": "", "no_proxy": "a"}).found == "none in the environment"


@pytest.mark.parametrize(("locale", "mark"), [("C", "warning"), ("C.UTF-8", "ok")])
def test_a_locale_without_utf_8_is_a_warning(locale: str, mark: str) -> None:
    code = "from serve_app.cli import machine; print(machine.encoding().mark)"
    env = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{mark}\n"
