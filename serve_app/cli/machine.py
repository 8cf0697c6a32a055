"""The checks of ``sightline doctor`` that look at the machine."""

from __future__ import annotations

import locale
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from serve_app.cli.findings import Finding, missing, ok, warning
from serve_app.cli.surroundings import HAPROXY_OPEN_FILES, MIN_OPEN_FILES, check_path, ray_folder, without_proxies
from serve_app.errors import ConfigError
from serve_app.ipc.dev_shm import FOLDER

_MIN_FREE_BYTES = 2 << 30  # all processes of a service with the embedded model take 2 GB
_NVIDIA_SMI_TIMEOUT_S = 20.0
_VECTORS = {  # the kernel's names of the instructions that speed up engines on a CPU, the fastest first
    "amx_tile": "AMX",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
_PROXIES = "http_proxy", "https_proxy", "all_proxy", "grpc_proxy"


def cores(available: int, needed: float) -> Finding:
    """Compare the number of cores with the sum of the replicas' num_cpus.

    Ray does not start a replica if the sum would then exceed the number of cores.
    """
    found = f"{available} cores, {needed:g} needed"
    if needed > available:
        return missing(
            "cores", found, "use a config that needs fewer, such as local, or lower num_cpus in a copy of it"
        )
    return ok("cores", found)


def memory(meminfo: str) -> Finding:
    """Check the memory that is available, from the text of /proc/meminfo."""
    available = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    free_bytes = int(available[1]) << 10 if available else 0
    found = f"{free_bytes / 2**30:.1f} GiB available"
    if free_bytes < _MIN_FREE_BYTES:
        return warning("memory", found, f"close other programs: a service takes {_MIN_FREE_BYTES >> 30} GiB or more")
    return ok("memory", found)


def vectors(cpuinfo: str) -> Finding:
    """Check for the instructions that speed up an engine on a CPU, from the text of /proc/cpuinfo."""
    flags = set(re.findall(r"\w+", "".join(re.findall(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)[:1])))
    found = [name for flag, name in _VECTORS.items() if flag in flags]
    if "AVX-512" in found or "AMX" in found:
        return ok("cpu", ", ".join(found))
    return warning(
        "cpu",
        f"{', '.join(found) or 'no x86 vector instructions'}, but neither AMX nor AVX-512",
        "expect lower throughput: on a CPU with AMX, bf16 and int8 are several times faster than fp32",
    )


def gpu(needed: float) -> Finding:
    """Ask NVIDIA's driver for the GPUs, and compare their number with the number that the config needs."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=False)
        found = done.stdout.strip().splitlines() if done.returncode == 0 else []
        problem = "" if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired, IndexError) as exc:
        found, problem = [], "" if isinstance(exc, FileNotFoundError) else f"nvidia-smi fails ({type(exc).__name__})"
    if needed > len(found):
        seen = problem or f"{len(found)} found, {needed:g} needed"
        return missing("gpu", seen, "install NVIDIA's driver, or use a config without GPUs, such as local")
    if problem:
        return warning("gpu", problem, "repair NVIDIA's driver to use the GPU; the CPU works without it")
    return ok("gpu", "; ".join(found) or "none found, and none needed")


def shared_memory(needed_bytes: int, folder: Path = FOLDER) -> Finding:
    """Compare the free shared memory with the size of the frame pools."""
    fix = "provide more (docker run --shm-size=1g), or use fewer slots (preprocessor.slots)"
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as exc:
        return missing("shared memory", f"{folder} cannot be used ({exc.strerror})", "mount a tmpfs there")
    found = f"{free_bytes / 2**20:.0f} MiB free, {needed_bytes / 2**20:.0f} MiB needed"
    return missing("shared memory", found, fix) if needed_bytes > free_bytes else ok("shared memory", found)


def open_files() -> Finding:
    """Check how many files a process may open. ``sightline serve`` raises its limit to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fix = f"raise the hard limit to {HAPROXY_OPEN_FILES} or more (ulimit -Hn, docker run --ulimit nofile=65536)"
    if hard == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    if hard < MIN_OPEN_FILES:
        return missing("open files", f"{hard} allowed, {MIN_OPEN_FILES} needed", fix)
    if hard < HAPROXY_OPEN_FILES:
        return warning("open files", f"{hard} allowed, so HAProxy accepts fewer than 4096 connections", fix)
    return ok("open files", f"{hard} allowed")


def rays_of_processes(proc: Path = Path("/proc")) -> Iterator[tuple[int, str]]:
    """Yield the process id and the Ray version of each raylet on this machine whose process may be inspected."""
    for folder in proc.glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() != "raylet":
                continue
            program = Path((folder / "cmdline").read_bytes().split(b"\0")[0].decode())
            version = re.search(r'^version = "(.+)"', (program.parents[4] / "_version.py").read_text(), re.MULTILINE)
        except (OSError, IndexError, UnicodeDecodeError):
            continue  # the process has ended, or belongs to another user
        yield int(folder.name), version[1] if version else "unknown"


def running_ray(installed: str, address: str, proc: Path = Path("/proc")) -> Finding:
    """Check for another version of Ray that is running. ``address`` is the value of RAY_ADDRESS."""
    running = dict(rays_of_processes(proc))
    if not running:
        return ok("running Ray", "none")
    found = ", ".join(f"version {version} (process {pid})" for pid, version in sorted(running.items()))
    if all(version == installed for version in running.values()):
        return ok("running Ray", found)
    if address not in ("", "local"):
        return missing(
            "running Ray", f"{found}, but {installed} is installed", "unset RAY_ADDRESS, or install its version"
        )
    return warning(
        "running Ray",
        f"{found}, but {installed} is installed",
        "nothing needs to be done: `sightline serve` starts its own Ray unless RAY_ADDRESS is set",
    )


def ray_files(interpreter: str) -> Finding:
    """Check that Ray can run this interpreter and has a folder for its files."""
    try:
        check_path(interpreter)
        return ok("Ray's files", f"{ray_folder()}/ray")
    except ConfigError as exc:
        return Finding("Ray's files", "missing", exc.detail)


def cache_folder(folder: Path) -> Finding:
    """Check that exported models can be kept. Only a model that needs an export needs this folder."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        return warning(
            "cache folder", f"{folder} cannot be written ({reason})", "set SERVE_APP_CACHE_DIR to a folder of yours"
        )
    free_bytes = shutil.disk_usage(folder).free
    return ok("cache folder", f"{folder}, {free_bytes / 2**30:.1f} GiB free")


def proxies(environment: Mapping[str, str]) -> Finding:
    """Check whether other programs would send requests for this machine to a proxy. Never print the proxy's address."""
    names = sorted(name for name in environment if name.lower() in _PROXIES and environment[name])
    if not names:
        return ok("proxy", "none in the environment")
    found = f"{', '.join(names)}: the proxy gets requests to other hosts, and may end connections that are long idle"
    hosts = {host.strip() for host in environment.get("no_proxy", environment.get("NO_PROXY", "")).split(",")}
    if hosts & {"127.0.0.1", "*"}:
        return ok("proxy", f"{found}; no_proxy excludes this machine")
    fixed = without_proxies(dict(environment))["no_proxy"]
    return warning(
        "proxy",
        f"{found}; sightline never uses it for this machine, but curl and other programs do",
        f"export no_proxy={fixed}",
    )


def encoding() -> Finding:
    """Check that the locale is UTF-8. Sightline works in every locale, but a terminal may not show all characters."""
    name = locale.getencoding().upper()
    if name in {"UTF-8", "UTF8"}:
        return ok("locale", "UTF-8")
    return warning("locale", f"{name}, so characters that it lacks are printed as escapes", "export LC_ALL=C.UTF-8")


def core_count() -> int:
    """Return the number of cores that Ray counts."""
    return os.cpu_count() or 1
