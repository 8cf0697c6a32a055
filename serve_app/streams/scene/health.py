"""The scene health of a stream: whether its camera is covered, out of focus, dark, frozen or moved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import cv2

from serve_app.schemas.scene import SceneHealth, SceneHealthChange, SceneHealthSettings, SceneMemory, SceneState
from serve_app.streams.scene.confirmation import Confirmation
from serve_app.streams.scene.detail import SIZE_PX, Comparison, Detail, compare, detail_of
from serve_app.streams.scene.sampling import sample, shrink
from serve_app.streams.scene.stillness import Habits, Stillness
from serve_app.streams.scene.view import CurrentView, UsualView
from serve_app.types import Frame, Pixels

_INTERVAL_S = 0.9  # less than a second, so that every frame of a stream with 1 frame per second is a sample
_INTERRUPTED_S = 30.0  # after this time without a frame, earlier samples are not compared with later ones
_LEARNED_AFTER_S = 20.0
_REFRESH_INTERVAL_S = 10.0  # of the usual view
_MEMORY_INTERVAL_S = 60.0  # of the memory; it is saved with each frame, but it seldom changes
_ACCEPTED_AFTER_S = 3600.0  # the new view of a moved camera then becomes the usual one

# A picture is black if fewer of its pixels than a caption has (2 %) reach this grey level. It is light if a fifth of
# them reach twice this level: beside a lamp, strong compression makes the rest of the picture black within seconds.
_BLACK_LEVEL, _LIGHT_LEVEL, _CAPTION, _LIGHT = 20, 40, 0.02, 0.2
_SUDDEN_S = 60.0  # at dusk, a picture takes longer to turn from light to black
_DAY_AFTER_S = 60.0  # light is that of the day if it has lasted this long; headlights pass sooner
# These limits separate the faults in scripts/trials/scene_faults.py from the harmless video in scene_views.py.
_KEPT = 0.45  # the view is as usual if more blocks show their usual edges; parked vehicles may hide the others
# The view has moved if enough blocks, relative to the usual number, have sharp edges of something else. The more blocks
# still show some of the usual edges, the more are needed, because sharp parts of the scene are visible through a web.
_MOVED, _MOVED_BY_SIMILAR = 0.15, 0.3
_SAME_SCENE = 0.5  # a lens out of focus and weak contrast leave some of the usual edges in more blocks than this
_BLURRED = 0.78  # the blocks that a lens out of focus softens; infrared light softens up to three quarters of them
_FAINT = 0.5  # the contrast is too weak to judge if fewer blocks than this share of the usual number have any detail
_JUDGED, _JUDGED_AGAIN = 0.3, 0.5  # the picture is too dark if fewer blocks can be judged, until more can be
_MIN_TEXTURED = 20  # blocks with detail, of 144, that a usual view needs
_MIN_TEXTURED_NOW = 5  # a picture with fewer blocks may be identical to the next one because it is just black or white

_LEARNING = "the usual view of the stream is not known yet; it is known half a minute after the stream starts"
_BLANK = "the usual view has too little detail; check what the camera shows"
_TOO_DARK = "the picture is too dark or too noisy to judge"
_TOO_FAINT = "the picture shows the usual scene, but with too little contrast to judge"
_NIGHT = "the picture is black, but it became dark slowly, as at nightfall"
_DETAILS: dict[SceneState, str] = {
    "ok": "",
    "covered": "most of the view is hidden; clean the lens, or remove what is in front of it",
    "blurred": "the picture is less sharp than usual; focus and clean the lens",
    "dark": "the picture is black; check the light, the lens cap and the camera's night mode",
    "frozen": "all frames have identical pixels, although their timestamps differ; restart the camera",
    "frozen?": "all frames have identical pixels; the source has sent identical frames before, so this may be normal",
    "moved": "the camera shows another view than usual; turn it back, or wait an hour until the new view is usual",
}


class HealthCheck:
    """Looks at about one frame per second of a stream, and says whether the camera still sees its usual scene."""

    def __init__(self, settings: SceneHealthSettings, memory: SceneMemory) -> None:
        """Continue with the memory of the stream's previous process."""
        self._settings = settings
        self.memory = memory
        self._unjudged = memory.detail if memory.picture else _LEARNING  # the reason for the state ``unknown``
        detail = self._unjudged if memory.state == "unknown" else memory.detail
        self.health = SceneHealth(state=memory.state, since_at_s=memory.since_at_s, detail=detail)
        self.found: SceneState = "unknown"  # what the last sample alone suggests, without hysteresis
        self._usual = UsualView(memory.picture)
        self._now = CurrentView()
        self._stillness = Stillness(Habits(memory.compared, memory.identical, memory.longest_still_s))
        self._confirmation = Confirmation("ok" if memory.state.startswith("frozen") else memory.state)
        # A source that is black at first may have been like that for hours, unless it is new.
        self._is_night = bool(memory.picture) and memory.state != "dark"
        self._light_since_s: float | None = None  # when the picture became light, if it is light now
        self._day_at_s: float | None = None  # when it had last been light for a while
        self._first_at_s: float | None = None
        self._last_at_s = float("-inf")
        self._refreshed_at_s = self._remembered_at_s = self._moved_at_s = 0.0

    def is_due(self, frame: Frame) -> bool:
        """Return whether ``update`` should look at this frame."""
        return frame.stream_time_s - self._last_at_s >= _INTERVAL_S

    def update(self, frame: Frame, pixels: Pixels) -> SceneHealthChange | None:
        """Look at a frame for which ``is_due`` is true. Return the change of state, or None if there is none.

        This takes about a millisecond, so call it in a thread.
        """
        at_s = frame.stream_time_s
        if at_s - self._last_at_s > _INTERRUPTED_S:
            self._interrupt(at_s)
        self._last_at_s = at_s
        sampled = sample(pixels)
        grey = shrink(sampled, SIZE_PX)
        self._now.add(grey)
        freeze = self._stillness.update(sampled, at_s)
        view = self._now.median()
        if view is None:
            return None
        picture, noise = view
        detail = detail_of(picture, noise)
        if freeze and int(detail.textured.sum()) >= _MIN_TEXTURED_NOW:
            self.found = freeze
            return self._change(freeze, _DETAILS[freeze], frame)
        if self._stillness.is_still and self.health.state.startswith("frozen"):
            return None  # after a restart or a pause, it takes 15 s until a freeze is certain again
        self.found = self._judge(picture, detail, at_s)
        state = self._confirmation.update(self.found, at_s)
        self._learn(self.found, state, picture, detail, at_s)
        return self._change(state, self._unjudged if state == "unknown" else _DETAILS[state], frame)

    def _interrupt(self, at_s: float) -> None:
        self._now.clear()
        self._stillness.interrupt()
        self._confirmation.interrupt()
        if self._first_at_s is None:
            self._first_at_s = self._refreshed_at_s = self._remembered_at_s = self._moved_at_s = at_s

    def _judge(self, picture: Any, detail: Detail, at_s: float) -> SceneState:
        """Return the state that the current view alone suggests."""
        if self._is_black(picture, at_s):
            if not self._is_night:
                return "dark"
            return self._cannot_judge(_NIGHT)
        usual = self._usual.detail
        if self._settings.moving_camera:
            return "ok"
        if usual is None:
            return self._cannot_judge(_LEARNING)
        if int(usual.textured.sum()) < _MIN_TEXTURED:
            return self._cannot_judge(_BLANK)
        comparison = compare(detail, usual)
        if comparison.judged < (_JUDGED_AGAIN if self.health.state == "unknown" else _JUDGED):
            return self._cannot_judge(_TOO_DARK)
        state = _state_of(comparison)
        return self._cannot_judge(_TOO_FAINT) if state == "unknown" else state

    def _cannot_judge(self, reason: str) -> SceneState:
        self._unjudged = reason
        return "unknown"

    def _is_black(self, picture: Any, at_s: float) -> bool:
        """Return whether the picture is black. Remember whether it became black slowly."""
        if cv2.countNonZero(cv2.compare(picture, _LIGHT_LEVEL, cv2.CMP_GE)) >= _LIGHT * picture.size:
            if self._light_since_s is None:
                self._light_since_s = at_s
            if at_s - self._light_since_s >= _DAY_AFTER_S:
                self._day_at_s, self._is_night = at_s, False
            return False
        self._light_since_s = None
        if cv2.countNonZero(cv2.compare(picture, _BLACK_LEVEL, cv2.CMP_GE)) >= _CAPTION * picture.size:
            if self._day_at_s is not None and at_s - self._day_at_s > _SUDDEN_S:
                self._is_night = True
            return False
        return True

    def _learn(self, found: SceneState, state: SceneState, picture: Any, detail: Detail, at_s: float) -> None:
        """Let the usual view follow the current one, unless something is wrong with the current one."""
        elapsed_s = at_s - self._refreshed_at_s
        if state != "moved":
            self._moved_at_s = at_s
        assert self._first_at_s is not None
        usual = self._usual.detail
        if usual is None:
            if at_s - self._first_at_s >= _LEARNED_AFTER_S and found != "dark":
                self._usual.replace(picture)
        elif at_s - self._moved_at_s >= _ACCEPTED_AFTER_S:
            self._usual.replace(picture)
            self._confirmation.interrupt()
            self._moved_at_s = at_s
        elif elapsed_s >= _REFRESH_INTERVAL_S:
            if int(usual.textured.sum()) < _MIN_TEXTURED:
                self._usual.replace(picture)
            elif found == state == "ok":
                self._usual.follow(picture, elapsed_s)
            self._refreshed_at_s = at_s
        if at_s - self._remembered_at_s >= _MEMORY_INTERVAL_S:
            self._remember(at_s)

    def _change(self, state: SceneState, detail: str, frame: Frame) -> SceneHealthChange | None:
        previous = self.health.state
        if (state, detail) == (previous, self.health.detail):
            return None
        is_change = state != previous
        since_at_s = frame.captured_at_s if is_change or not self.health.since_at_s else self.health.since_at_s
        self.health = SceneHealth(state=state, since_at_s=since_at_s, detail=detail)
        self._remember(frame.stream_time_s)
        if not is_change:
            return None
        return SceneHealthChange(
            frame_id=frame.frame_id, captured_at_s=frame.captured_at_s, state=state, previous=previous, detail=detail
        )

    def _remember(self, at_s: float) -> None:
        self._remembered_at_s = at_s
        self.memory = SceneMemory(
            **self.health.model_dump(), picture=self._usual.to_jpeg(), **asdict(self._stillness.habits)
        )


def _state_of(comparison: Comparison) -> SceneState:
    """Return the state of a view that is not black. It is ``unknown`` if the contrast is too weak to judge.

    A lens out of focus softens the whole view, and its edges stay where they are. A view that has moved has sharp edges
    of something else. All other views without their usual edges are covered, because what is right before the lens,
    such as a hand or a web, is out of focus. An exception is a picture with weak contrast, such as one with infrared
    light that H.264 compresses strongly: traces of the usual edges are all over the picture, but few of them are clear.
    """
    if comparison.shift_px != (0, 0):
        return "moved"
    is_same_scene = comparison.similar >= _SAME_SCENE
    if is_same_scene and comparison.softer >= _BLURRED:
        return "blurred"
    if comparison.kept >= _KEPT:
        return "ok"
    if comparison.foreign >= _MOVED + _MOVED_BY_SIMILAR * comparison.similar:
        return "moved"
    return "unknown" if is_same_scene and comparison.textured < _FAINT else "covered"
