from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ray import serve

from serve_app.config import parse_args
from serve_app.deployments.stream_worker import StreamWorker, _open_collector
from serve_app.schemas.streams import SourceSpec, StreamSpec
from serve_app.video.source import parse_source
from tests.support.collected import HEIGHT_PX, MODEL, WIDTH_PX, answer
from tests.support.fake_replicas import FakeHandle

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("max_megapixels", "processed", "dropped"), [(1, 0, {"too_large": 1}), (2, 1, {})])
async def test_the_pixel_limit_of_images_applies_to_frames(
    max_megapixels: int, processed: int, dropped: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version did not apply ``limits.max_megapixels`` to streams."""

    def handle(*args: Any, **options: Any) -> FakeHandle:
        return FakeHandle()

    monkeypatch.setattr(serve, "get_deployment_handle", handle)
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((1000, 1200, 3), np.uint8))
    args = parse_args({"limits": {"max_megapixels": max_megapixels}, "streams": {"state_dir": str(tmp_path / "state")}})
    (tmp_path / "state/shop").mkdir(parents=True)
    spec = StreamSpec(id="lot", source=SourceSpec(uri=str(folder)))
    worker = StreamWorker(spec, parse_source(str(folder), (tmp_path,)), "shop", args)
    status = await worker.run()
    assert (status.state, status.processed, status.dropped) == ("completed", processed, dropped)


@pytest.mark.parametrize(
    ("collect", "folder", "collects"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_frames_are_kept_only_if_both_the_server_and_the_stream_allow_it(
    collect: bool, folder: bool, collects: bool, tmp_path: Path
) -> None:
    spec = StreamSpec(id="lot", source=SourceSpec(uri="rtsp://host/"), collect=collect)
    collector = _open_collector(spec, parse_args({"collect": {"folder": str(tmp_path)} if folder else {}}))
    assert (collector is not None) == collects
    if collector is not None:
        assert collector._pause_s == 6
        collector.close(10)


def test_a_stream_with_the_name_of_an_excluded_key_is_not_excluded(tmp_path: Path) -> None:
    spec = StreamSpec(id="dock", source=SourceSpec(uri="rtsp://host/"))
    collector = _open_collector(spec, parse_args({"collect": {"folder": str(tmp_path), "excluded_keys": "dock"}}))
    assert collector is not None
    frame = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
    collector.offer(frame, answer(("dog", 0.4)), MODEL, MODEL.defaults, "dock")
    collector.close(30)
    assert sum(collector.kept.values()) == 1
