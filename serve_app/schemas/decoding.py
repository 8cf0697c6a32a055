"""The JSON that says how the frames of a stream's source are decoded."""

from __future__ import annotations

from pydantic import BaseModel, Field

from serve_app.types import DecodedFrames


class DecodingStatus(BaseModel):
    """How the frames of a stream's source are decoded."""

    frames: DecodedFrames = Field(
        description="Which frames are decoded. `all`: every frame. `reference_frames`: only frames on which other "
        "frames depend. `key_frames`: of the key frames, which depend on no other frame, those that `max_fps` takes. "
        "The other frames are counted as dropped with the reason `max_fps`."
    )
    hardware: str | None = Field(description="The hardware that decodes. Null if the video is decoded in software.")
    detail: str = Field(description="The reason why `streams.hwaccel` is not used; empty if there is none.")
