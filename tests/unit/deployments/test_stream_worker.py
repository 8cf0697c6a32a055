from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ray import serve

from serve_app.config import parse_args
from serve_app.deployments.stream_worker import StreamWorker
from serve_app.schemas.streams import SourceSpec, StreamSpec
from serve_app.video.source import parse_source
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
