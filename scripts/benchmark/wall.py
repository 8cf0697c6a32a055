"""Measure what the page at ``/console`` costs the server and the browser while it shows 64 tiles of 8 streams.

python -m scripts.benchmark.wall                   show the tiles for ten minutes, and print a table
python -m scripts.benchmark.wall --duration 60     show them for a minute

The wall shows each stream once. So the page gets seven more rows of tiles, which use the wall's own modules: each row
has a WebSocket of its own, over which the server sends every frame again. The phases are: no page, the page, the page
while it is hidden behind another tab, and no page again. The costs do not include the Detector's CPU time, because on a
busy machine the streams process fewer frames while it shows the page. Needs Chromium, which ``scripts/servers``
installs. The exit status is 1 if a value exceeds its limit in this file.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from playwright.sync_api import BrowserContext, Page, sync_playwright
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.benchmark.browser import chromium, tabs
from scripts.benchmark.rounds import machine
from scripts.benchmark.streams import FOLDER, count_frames, serving, start_streams
from scripts.benchmark.usage import Usage
from scripts.benchmark.videos import save_belt, sized
from scripts.launch import Server, stop_on_signals

MAX_GROWTH_MB, MAX_TILE_MS, MAX_FIRST_PAINT_MS = 5.0, 2.0, 300.0
MAX_HIDDEN_CORES = 0.02  # more than without a page; the CPU usage of the streams alone varies as much
_STREAMS, _ROWS, _MAX_FPS, _SIZE = 8, 8, 5.0, "640x360"
_LOADS = 10
_PHASE_S = 60.0  # for the warm-up and for the phases that are compared with the page; at most the page's duration
_SETTLE_S = 5.0
_TIMEOUT_MS = 180_000
_SHOWN = ("haproxy", "Ingress", "StreamSupervisor", "StreamWorker", "Detector")

Connect: TypeAlias = Callable[[], AbstractContextManager[BrowserContext]]

# Count the binary messages, each of which is a tile, and the tiles that are drawn.
_COUNT = """
  window.seen = { delivered: 0, drawn: 0 };
  window.WebSocket = class extends WebSocket {
    constructor(...options) {
      super(...options);
      this.addEventListener("message", ({ data }) => { seen.delivered += data instanceof ArrayBuffer; });
    }
  };
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...options) {
    seen.drawn += 1;
    return draw.apply(this, options);
  };
"""
# The tiles are small, so that a browser without a GPU can draw them all, and all are in view.
_ADD_ROWS = """async ({ streams, rows }) => {
  const { Previews } = await import(new URL("console/previews.js", location));
  const page = document.getElementById("page");
  for (let row = 0; row < rows; row += 1) {
    const previews = new Previews();
    const line = document.createElement("div");
    page.prepend(line);
    for (const id of streams) {
      const canvas = document.createElement("canvas");
      canvas.style.width = "112px";
      line.append(canvas);
      previews.add(id, canvas);
    }
  }
}"""
_ARE_ALL_DRAWN = """(tiles) => {
  const canvases = [...document.querySelectorAll("canvas")];
  const inView = ({ top, bottom }) => top >= 0 && bottom <= innerHeight;
  return canvases.length === tiles && canvases.every((one) => one.height > 200 && inView(one.getBoundingClientRect()));
}"""


@dataclass(frozen=True)
class Phase:
    """What the server did in a part of the run."""

    name: str
    took_s: float
    cpu_s: Counter[str]  # by process
    frames: int  # that the streams processed

    @property
    def cores(self) -> float:
        """The CPU usage of the server without the Detector, for which a page makes no work."""
        return (self.cpu_s.total() - self.cpu_s["Detector"]) / self.took_s


def main() -> None:
    """Run the measurement, and print the results."""
    stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--duration", type=float, default=600.0, help="seconds for which the page is measured (default: %(default)g)"
    )
    duration_s = parser.parse_args().duration
    FOLDER.mkdir(parents=True, exist_ok=True)
    video = sized(save_belt(FOLDER), _SIZE, FOLDER)
    path = shutil.which("chromium")
    if path is None:
        sys.exit("Chromium is not installed; scripts/servers installs it as root on Debian")
    with sync_playwright() as playwright, chromium(path) as address, serving({}, {video.parent}) as server:
        connect = partial(tabs, playwright, address)
        first_paint_ms = statistics.median(first_paints_ms(connect, server))
        start_streams(server, video, _STREAMS, "drop_oldest", _MAX_FPS)
        time.sleep(_SETTLE_S)
        is_exceeded = show({"first_paint_ms": first_paint_ms, **watch(connect, server, duration_s)})
    sys.exit(is_exceeded)


def first_paints_ms(connect: Connect, server: Server) -> list[float]:
    """Return the times to the first contentful paint of the wall, with a filled cache and no streams."""
    times = []
    with connect() as context:
        for _ in range(_LOADS + 1):
            page = context.new_page()
            page.goto(f"{server.url}/console#/streams", wait_until="networkidle")
            times += page.evaluate("performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)")
            page.close()
    return times[1:]


def watch(connect: Connect, server: Server, duration_s: float) -> dict[str, Any]:
    """Run all phases, and return what was measured.

    Playwright is not connected while the page is measured, because it would receive every tile, too.
    """
    short_s = min(_PHASE_S, duration_s)
    before = measure("no page", server, short_s)
    with connect() as context:
        open_wall(context, server)
    time.sleep(short_s)
    with connect() as context:
        page = wall_of(context)
        heap, tiles = heap_mb(page), page.evaluate("({ ...seen })")
    shown = measure("page", server, duration_s)
    with connect() as context:
        page = wall_of(context)
        growth_mb = {part: mb - heap[part] for part, mb in heap_mb(page).items()}
        tiles = {name: count - tiles[name] for name, count in page.evaluate("({ ...seen })").items()}
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        context.new_page().bring_to_front()
        page.wait_for_function("document.visibilityState === 'hidden'", polling=100)
        page.wait_for_timeout(1e3 * _SETTLE_S)
        requests.clear()
        delivered = page.evaluate("seen.delivered")
        hidden = measure("hidden page", server, short_s)
        hidden_tiles = page.evaluate("seen.delivered") - delivered  # also reads the events of all requests
        page.close()
    time.sleep(_SETTLE_S)
    return {
        "phases": [before, shown, hidden, measure("no page", server, short_s)],
        "heap_mb": heap,
        "growth_mb": growth_mb,
        "tiles": tiles,
        "hidden_requests": len(requests),
        "hidden_tiles": hidden_tiles,
    }


def open_wall(context: BrowserContext, server: Server) -> None:
    """Open the wall, and add tiles until there are 64. Return when a frame of each is drawn."""
    page = context.new_page()
    page.set_default_timeout(_TIMEOUT_MS)
    page.add_init_script(_COUNT)
    page.goto(f"{server.url}/console#/streams")
    page.wait_for_selector("article.tile")
    streams = [stream.stream_id for stream in server.client.streams.list()]
    page.evaluate(_ADD_ROWS, {"streams": streams, "rows": _ROWS - 1})
    page.wait_for_function(_ARE_ALL_DRAWN, arg=_STREAMS * _ROWS)


def wall_of(context: BrowserContext) -> Page:
    """Return the page that shows the tiles."""
    return next(page for page in context.pages if page.url.endswith("#/streams"))


def heap_mb(page: Page) -> dict[str, float]:
    """Return the parts of the page's heap in MB, after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    session.detach()
    parts = {"objects": "usedSize", "elements": "embedderHeapUsedSize", "buffers": "backingStorageSize"}
    return {part: usage[name] / 1e6 for part, name in parts.items()}


def measure(name: str, server: Server, duration_s: float) -> Phase:
    """Measure the server for a while."""
    frames, usage = count_frames(server), Usage.of(server.process.pid)
    time.sleep(duration_s)
    after = Usage.of(server.process.pid)
    return Phase(name, after.at_s - usage.at_s, after.since(usage), count_frames(server) - frames)


def show(seen: dict[str, Any]) -> bool:
    """Print what was measured, with the limits. Return whether a limit is exceeded."""
    before, page, hidden, after = seen["phases"]
    table = Table("", "s", "frames/s", *_SHOWN, "others", "all", box=SIMPLE, title="CPU usage of the server, in cores")
    for phase in seen["phases"]:
        cores = [phase.cpu_s[name] / phase.took_s for name in _SHOWN]
        total = phase.cpu_s.total() / phase.took_s
        values = [f"{phase.took_s:.0f}", f"{phase.frames / phase.took_s:.1f}"]
        values += [f"{value:.3f}" for value in (*cores, total - sum(cores), total)]
        table.add_row(phase.name, *values)
    no_page = (before.cores + after.cores) / 2
    delivered, drawn = (seen["tiles"][name] / page.took_s for name in ("delivered", "drawn"))
    tile_ms = 1e3 * (page.cores - no_page) / max(delivered, 1e-9)
    growth_mb = sum(seen["growth_mb"].values())
    bounded = {
        "first paint, ms": (seen["first_paint_ms"], MAX_FIRST_PAINT_MS),
        f"growth of the page's heap of {sum(seen['heap_mb'].values()):.1f} MB, MB": (growth_mb, MAX_GROWTH_MB),
        "CPU time of the server for a delivered tile, ms": (tile_ms, MAX_TILE_MS),
        "requests of the hidden page": (seen["hidden_requests"], 0),
        "tiles delivered to the hidden page": (seen["hidden_tiles"], 0),
        "CPU usage with the hidden page, cores more than without a page": (hidden.cores - no_page, MAX_HIDDEN_CORES),
    }
    results = Table("", "measured", "limit", box=SIMPLE, title=machine()["machine"])
    for name, (value, limit) in bounded.items():
        results.add_row(name, f"{value:.3g}", f"{limit:g}")
    for part, mb in seen["growth_mb"].items():
        results.add_row(f"of the growth, {part}", f"{mb:.3g}", "")
    results.add_row("tiles/s delivered, drawn", f"{delivered:.0f}, {drawn:.0f}", "")
    console = Console(width=120)
    console.print(table, results)
    return any(value > limit for value, limit in bounded.values())


if __name__ == "__main__":
    main()
