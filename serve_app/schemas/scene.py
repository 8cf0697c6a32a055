"""The JSON of a stream's scene health, which says whether the camera still sees its scene."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SceneState = Literal["unknown", "ok", "covered", "blurred", "dark", "frozen", "frozen?", "moved"]
ALARMS: frozenset[SceneState] = frozenset({"covered", "blurred", "dark", "frozen", "moved"})


class SceneHealthSettings(BaseModel):
    """The check of the scene health, which says whether the camera is covered, out of focus, dark, frozen or moved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Check the scene. The images of a folder are never checked.")
    moving_camera: bool = Field(
        False,
        description="The camera pans, tilts or zooms, or the video has cuts. Only `dark` and `frozen` are then "
        "reported, because the other states are found by comparison with the usual view.",
    )


class SceneHealth(BaseModel):
    """Whether a stream's camera still sees its scene."""

    state: SceneState = Field(
        description="`unknown`: the scene cannot be judged, for example because the stream has just started. "
        "`covered`: most of the view is hidden. `blurred`: the picture is out of focus. `dark`: the picture is black. "
        "`frozen`: all frames have identical pixels. `frozen?`: the same, but the source has sent identical frames "
        "before. `moved`: the camera shows another view."
    )
    since_at_s: float = Field(description="When the state began, in seconds since the epoch; 0 before the first frame.")
    detail: str = Field(default="", description="What the state means, and what to do; empty if the state is `ok`.")


class SceneHealthChange(BaseModel):
    """The event ``scene_health``: the state of the scene health has changed."""

    frame_id: int
    captured_at_s: float
    state: SceneState
    previous: SceneState
    detail: str = Field(description="What the state means, and what to do; empty if the state is `ok`.")


class SceneMemory(BaseModel):
    """What the next process of a stream must know about the scene. Its size is limited to about 10 KB."""

    state: SceneState = "unknown"
    detail: str = ""
    since_at_s: float = 0.0
    picture: str = ""  # the usual view: a small grey JPEG in base64, or empty if it is not known yet
    # How often two successive samples were compared, how often they were identical, and the longest time for which
    # they were. Freezes that were reported do not count.
    compared: int = 0
    identical: int = 0
    longest_still_s: float = 0.0
