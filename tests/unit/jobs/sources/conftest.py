"""Fixtures with settings and folders for sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import AppArgs, parse_args


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Return the only folder from which sources may read."""
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """Return a job's own folder, which does not exist yet."""
    return tmp_path / "state" / "job-1"


@pytest.fixture
def args(media: Path) -> AppArgs:
    """Return settings that allow the folder ``media``, all of the bucket ``dock``, and URLs."""
    return parse_args(
        {
            "streams": {"media_dirs": str(media)},
            "jobs": {"allowed_uris": "s3://dock gs://dock az://dock s3://yard/in/"},
            "limits": {"max_body_mib": 1},
            "outbound": {"detect_urls": True, "allowed_networks": "127.0.0.2/32"},
        }
    )
