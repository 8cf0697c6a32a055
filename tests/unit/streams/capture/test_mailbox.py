from __future__ import annotations

import numpy as np
import pytest

from serve_app.streams.capture.mailbox import FrameMailbox
from serve_app.types import Frame, Position

pytestmark = pytest.mark.anyio
PIXELS = np.zeros((1, 1, 3), np.uint8)


async def test_a_place_that_is_closed_gives_back_what_it_does_not_take() -> None:
    place = FrameMailbox()
    frame = Frame(0, 0.0, 0.0, Position(0), lambda: PIXELS)
    assert place.put(frame, wait=True) is None
    place.close()
    returned = place.put(Frame(1, 0.0, 0.0, Position(1), lambda: PIXELS), wait=True)
    assert returned is not None
    assert returned.frame_id == 1
    assert await place.take() is frame
    assert await place.take() is None
