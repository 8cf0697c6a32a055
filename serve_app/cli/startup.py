"""The lines that ``sightline serve`` prints while the service starts, and when it serves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serve_app.config import ModelArgs
from serve_app.models.export import running_exports
from serve_app.types import Json

_REPORT_INTERVAL_S = 10.0
_ANY_HOST = {"", "0.0.0.0", "::"}


def addresses(config: Json, dashboard: str | None) -> str:
    """Return the addresses of the applications, with their consoles and documentation, and of Ray's dashboard."""
    http = config.get("http_options") or {}
    host, port = http.get("host", "0.0.0.0"), http.get("port", 8000)
    host = "127.0.0.1" if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    prefixes = [(application.get("route_prefix") or "/").rstrip("/") for application in config["applications"]]
    lines = []
    for prefix in prefixes:
        url = f"http://{host}:{port}{prefix}"
        lines += [f"serving    {url}", f"console    {url}/console", f"docs       {url}/docs"]
    if dashboard:
        lines.append(f"dashboard  http://{dashboard} (`ray get-auth-token` prints its token)")
    return "\n".join([*lines, "stop       press Ctrl-C"])


class ExportProgress:
    """Reports that replicas export models. The export makes the first start with a checkpoint slow."""

    def __init__(self, models: Sequence[ModelArgs], tell: Callable[[str], None]) -> None:
        self._names = {model.weights.stem: model.weights.name for model in models}
        self._caches = {Path(os.path.expanduser(model.cache_dir)) for model in models}  # never raises an error
        self._tell = tell
        self._started_at_s: dict[Path, float] = {}
        self._reported_at_s = time.monotonic()

    def report(self) -> None:
        """Report each export that has started or ended since the last call.

        Every 10 s, also report the exports that are still running.
        """
        now_s = time.monotonic()
        running = {target for cache in self._caches for target in running_exports(cache)}
        for target in sorted(running - self._started_at_s.keys()):
            self._started_at_s[target] = now_s
            self._tell(f"exporting {self._name(target)}, once: the next start uses the export in {target.parent}")
        for target in sorted(self._started_at_s.keys() - running):
            took_s = now_s - self._started_at_s.pop(target)
            if target.exists():  # after a failed export, the start fails with an error that gives the reason
                self._tell(f"exported {self._name(target)} in {took_s:.0f} s")
        if now_s - self._reported_at_s >= _REPORT_INTERVAL_S:
            self._reported_at_s = now_s
            for target, started_at_s in self._started_at_s.items():
                self._tell(f"exporting {self._name(target)}: {now_s - started_at_s:.0f} s")

    def _name(self, target: Path) -> str:
        """Return the name of the weights from which an export is made."""
        stems = [stem for stem in self._names if target.name.startswith(f"{stem}-")]
        return self._names[max(stems, key=len)] if stems else target.name
