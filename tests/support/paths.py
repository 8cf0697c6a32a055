"""The folders that tests read from."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
SHARED = ROOT.parent / "shared"  # real photographs, videos and weights, where there are any
