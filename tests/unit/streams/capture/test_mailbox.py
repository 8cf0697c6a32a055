from __future__ import annotations

import numpy as np
import pytest

from serve_app.streams.capture.mailbox import FrameMailbox
from serve_app.types import Frame, Position

pytestmark = pytest.mark.anyio
PIXELS = np.zeros((1, 1, 3), np.uint8)


async def test_a_closed_mailbox_returns_the_frame_that_it_does_not_accept() -> None:
    mailbox = FrameMailbox()
    frame = Frame(0, 0.0, 0.0, Position(0), lambda: PIXELS)
    assert mailbox.put(frame, wait=True) is None
    mailbox.close()
    returned = mailbox.put(Frame(1, 0.0, 0.0, Position(1), lambda: PIXELS), wait=True)
    assert returned is not None
    assert returned.frame_id == 1
    assert await mailbox.take() is frame
    assert await mailbox.take() is None
