"""A fake of the DriftMonitor, whose sources a test sets."""

from __future__ import annotations

from serve_app.errors import NotFound, ServeAppError
from serve_app.schemas.drift import DriftHistograms, FeatureHistogram, NewReference, ReferenceFile, SourceDrift


class FakeDrift:
    """Fake drift. All sources have the model ``default``."""

    def __init__(self, *sources: str) -> None:
        self.known = {name: self._source(name) for name in sources}
        self.set: list[NewReference] = []
        self.failure: ServeAppError | None = None

    async def sources(self) -> list[SourceDrift]:
        if self.failure:
            raise self.failure
        return list(self.known.values())

    async def histograms(self, model: str, source: str) -> DriftHistograms:
        self._find(source)
        histogram = FeatureHistogram(bins=["under 16", "16 and more"], reference=[0.25, 0.75], current=[1, 0])
        return DriftHistograms(model=model, source=source, features={"brightness": histogram})

    async def reference(self, model: str, source: str) -> ReferenceFile:
        self._find(source)
        return ReferenceFile(hours=[], blocks=0, noise={})

    async def set_reference(self, new: NewReference) -> SourceDrift:
        self._find(new.source)
        self.set.append(new)
        return self.known[new.source]

    def _find(self, source: str) -> SourceDrift:
        if source not in self.known:
            raise NotFound(f"no image of the source {source!r} was seen with the model 'default'")
        return self.known[source]

    @staticmethod
    def _source(name: str) -> SourceDrift:
        return SourceDrift(model="default", version="1", source=name, state="steady")
