"""Download the published YOLO26n.

The file is a pickle, so it is accepted only if its SHA-256 hash equals the constant ``SHA256``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import httpx

NAME = "yolo26n"
URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolo26n.pt"
SHA256 = "9b09cc8bf347f0fc8a5f7657480587f25db09b34bf33b0652110fb03a8ad4fef"
FETCH_TIMEOUT_S = 30  # limit for the whole download of 5.5 MB


class NotFetched(Exception):
    """The model could not be downloaded. The message says why."""


def fetch(folder: Path) -> Path:
    """Return the path of the weights in ``folder``, and download them if they are not there.

    Raise NotFetched if the download fails.
    """
    path = folder / f"{NAME}.pt"
    try:
        if path.exists() and _is_known(path.read_bytes()):
            return path
    except OSError as exc:
        raise NotFetched(str(exc)) from exc
    failures: list[Exception] = []

    def download() -> None:
        try:
            data = httpx.get(URL, follow_redirects=True, timeout=FETCH_TIMEOUT_S).raise_for_status().content
            if not _is_known(data):
                raise NotFetched("the downloaded file does not have the expected SHA-256")
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(data)
            part.rename(path)
        except Exception as exc:  # for example an invalid proxy, or a folder that cannot be written
            failures.append(exc)

    # Download in a thread, because without a network the resolution of the host name can block for minutes.
    downloading = threading.Thread(target=download, daemon=True)
    downloading.start()
    downloading.join(FETCH_TIMEOUT_S)
    if failures:
        raise NotFetched(str(failures[0]))
    if downloading.is_alive():
        raise NotFetched(f"no answer within {FETCH_TIMEOUT_S} s")
    return path


def _is_known(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == SHA256
