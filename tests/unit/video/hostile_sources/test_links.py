"""Links and pipes in the media folder."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from serve_app.errors import SourceError, Undecodable
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.hostile_sources import FRAMES, frames_of, save


def test_a_link_out_of_the_folder_is_not_followed(secret: Path, media: Path) -> None:
    (media / "file.ts").symlink_to(secret)
    (media / "folder").symlink_to(secret.parent)
    (media / "chain").symlink_to(media / "folder")
    for path in ("file.ts", "folder/secret.ts", "chain/secret.ts", "folder", "chain"):
        with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"):
            parse_source(str(media / path), (media,))


def test_a_link_within_the_folder_is_followed(media: Path) -> None:
    save(media / "a.avi")
    (media / "b.avi").symlink_to("a.avi")
    assert frames_of(media / "b.avi", media) == FRAMES


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_replaces_a_file_later_is_not_followed(swapped: str, secret: Path, media: Path) -> None:
    (media / "deep").mkdir()
    shutil.copy(secret, media / "deep/secret.ts")
    source = parse_source(str(media / "deep/secret.ts"), (media,))
    if swapped == "file":
        (media / "deep/secret.ts").unlink()
        (media / "deep/secret.ts").symlink_to(secret)
    else:
        (media / "deep").rename(media / "before")
        (media / "deep").symlink_to(secret.parent)
    with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"), open_video(source, max_pixels=1_000_000):
        pass


def test_links_that_change_constantly_never_lead_out_of_the_folder(secret: Path, media: Path) -> None:
    """The allowed video and the secret video have frames of different sizes."""
    path, mine = save(media / "a.ts", "mpeg2video", 96), media / "mine.ts"
    source = parse_source(str(path), (media,))
    shutil.copy(path, mine)
    is_stopped = threading.Event()

    def swap() -> None:
        while not is_stopped.is_set():
            for target in (secret, mine):
                (media / "link").symlink_to(target)
                (media / "link").replace(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    shown: set[tuple[int, ...]] = set()
    refused = 0
    try:
        while not (shown and refused) or refused < 100:
            try:
                with open_video(source, max_pixels=1_000_000) as opened:
                    shown |= {pixels().shape for pixels, _ in opened}
            except SourceError:
                refused += 1
    finally:
        is_stopped.set()
        swapping.join()
    assert shown == {(96, 96, 3)}
    assert refused > 0


def test_links_and_pipes_in_a_folder_are_not_read(secret: Path, media: Path) -> None:
    picture = secret.with_suffix(".png")
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    (media / "pictures").mkdir()
    shutil.copy(picture, media / "pictures/0.png")
    (media / "pictures/1.png").symlink_to(picture)
    os.mkfifo(media / "pictures/2.png")
    source = parse_source(str(media / "pictures"), (media,))
    with open_video(source, max_pixels=1_000_000) as opened:
        first, linked, pipe = (pixels for pixels, _ in opened)
        assert first().shape == (8, 8, 3)
        for other in (linked, pipe):
            with pytest.raises(Undecodable):
                other()


def test_a_pipe_that_replaces_a_file_does_not_block(media: Path) -> None:
    source = parse_source(str(save(media / "a.avi")), (media,))
    (media / "a.avi").unlink()
    os.mkfifo(media / "a.avi")
    with pytest.raises(SourceError), open_video(source, max_pixels=1_000_000):
        pass
