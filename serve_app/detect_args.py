"""The section ``detect`` of the settings: the thresholds of requests that do not set their own."""

from __future__ import annotations

from pydantic import Field

from serve_app.errors import ConfigError, InvalidParameter
from serve_app.sections import Section
from serve_app.thresholds import Confidence, split
from serve_app.types import DetectOptions, DetectParams, EngineInfo, ModelInfo

_USUAL_CONFIDENCE = 0.5


class DetectArgs(Section):
    """The thresholds of requests that do not set their own."""

    confidence: Confidence = _USUAL_CONFIDENCE  # one number, or person:0.6,*:0.5 for a number for each class
    iou: float = Field(0.7, ge=0, le=1, allow_inf_nan=False)
    max_detections: int = Field(300, ge=1, le=3000)
    agnostic_nms: bool = False  # whether boxes of different classes also suppress each other

    def to_options(self, engine: EngineInfo) -> DetectOptions:
        """Return the thresholds for a model. Raise ConfigError if the model lacks a class that ``confidence`` names."""
        others, by_class = split(self.confidence)
        usual = DetectOptions(
            confidence=_USUAL_CONFIDENCE if others is None else others,
            iou=self.iou,
            max_detections=self.max_detections,
            agnostic_nms=self.agnostic_nms,
        )
        try:
            return DetectParams(class_confidence=by_class).to_options(ModelInfo(engine, "", usual))
        except InvalidParameter as exc:
            problem = exc.detail.partition(";")[0]
            raise ConfigError(
                f"detect.{problem}; correct it, or set detect.confidence in the user_config of this model's Detector"
            ) from exc
