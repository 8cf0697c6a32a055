"""Folders from which tests read files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the root of the repository
SHARED = ROOT.parent / "shared"  # real photographs, videos and weights, if they are available
