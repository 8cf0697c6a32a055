"""The CPU time and memory of a server's processes, by process name."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """The total CPU time of each process of a server, measured at the time ``at_s``."""

    at_s: float
    cpu_s: dict[int, float]  # by process id
    names: dict[int, str]

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Return the current usage of a process and all its descendants."""
        cpu_s, names = {}, {}
        for process in _family(pid):
            with suppress(psutil.Error):  # skip a process that has just ended
                times = process.cpu_times()
                names[process.pid] = _name(process)
                cpu_s[process.pid] = times.user + times.system
        return cls(time.monotonic(), cpu_s, names)

    def since(self, before: Usage) -> Counter[str]:
        """Return the CPU seconds used since the measurement ``before``, by process name. New processes are included."""
        used: defaultdict[str, float] = defaultdict(float)
        for pid, cpu_s in self.cpu_s.items():
            used[self.names[pid]] += cpu_s - before.cpu_s.get(pid, 0.0)
        return Counter(used)


def memory_mib(pid: int) -> Counter[str]:
    """Return the memory of a process and its descendants, by process name. Shared pages are not counted twice."""
    found: Counter[str] = Counter()
    for process in _family(pid):
        with suppress(psutil.Error):
            found[_name(process)] += process.memory_full_info().pss / 2**20
    return found


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    title = command[0] if command else process.name()
    if found := re.match(r"ray::(?:ServeReplica:\w+:)?(\w+)", title):
        return found[1]  # Ray puts the class name of an actor into its process title
    name: str = process.name()
    if name.startswith(("haproxy", "raylet", "gcs_server")):
        return name
    return "server" if not any("ray" in part for part in command) else "Ray's other processes"
