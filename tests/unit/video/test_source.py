from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.errors import SourceError
from serve_app.video.source import parse_source


def test_a_file_is_allowed_only_below_a_media_folder(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    inside, outside = tmp_path / "media" / "a.mp4", tmp_path / "b.mp4"
    inside.touch()
    outside.touch()
    (tmp_path / "media" / "link.mp4").symlink_to(outside)
    media_dirs = (tmp_path / "media",)
    assert parse_source(str(inside), media_dirs).uri == str(inside)
    assert parse_source(f"file://{inside}", media_dirs).name == "a.mp4"
    for path in (outside, tmp_path / "media" / ".." / "b.mp4", tmp_path / "media" / "link.mp4"):
        with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"):
            parse_source(str(path), media_dirs)


@pytest.mark.parametrize(
    "text", ["ftp://host/a", "concat://a|b", "subfile://x", "rtsp:///path", "gopher://h/", "data://x"]
)
def test_other_schemes_are_refused(text: str) -> None:
    with pytest.raises(SourceError, match="http, https, rtsp, rtsps"):
        parse_source(text, (Path("/"),))


@pytest.mark.parametrize("text", ["concat:/a|/b", "subfile,,start,0,end,9,,:/etc/passwd", "pipe:0"])
def test_ffmpegs_own_notations_are_treated_as_file_names(text: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        parse_source(text, (tmp_path,))


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://admin:hunter2@10.0.0.7:554/live?token=hunter2#x",
        "rtsp://10.0.0.7:554/user=admin&password=hunter2/1",
        "RTSP://admin:hunter2%40@10.0.0.7:554/",
    ],
)
def test_credentials_are_not_in_the_name(uri: str) -> None:
    source = parse_source(uri, ())
    assert source.name == "rtsp://10.0.0.7:554/…"
    assert source.uri == uri
    assert source.is_live


def test_a_refusal_shows_only_the_file_name_that_the_client_sent(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "secret-name").touch()
    (tmp_path / "media/link").symlink_to(tmp_path / "secret-name")
    for text in (str(tmp_path / "media/link"), f"file://{tmp_path}/media/link"):
        with pytest.raises(SourceError, match=r"^link is not below") as refusal:
            parse_source(text, (tmp_path / "media",))
        assert "secret" not in refusal.value.detail


def test_a_refusal_does_not_reveal_home_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    details = set()
    for text in ("~root/x", "~nosuchuser/x", "~/x"):
        with pytest.raises(SourceError) as refusal:
            parse_source(text, (tmp_path,))
        details.add(refusal.value.detail)
    assert details == {"file x does not exist"}


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("options", ["?listen", "?fifo_size=10000000", "/?buffer_size=1000000000", "?", "#?reuse=1"])
def test_ffmpegs_options_in_a_url_are_refused(scheme: str, options: str) -> None:
    with pytest.raises(SourceError, match=f"{scheme} source must be {scheme}://host:port"):
        parse_source(f"{scheme}://127.0.0.1:5000{options}", ())
    assert parse_source(f"{scheme}://127.0.0.1:5000", ()).is_live


@pytest.mark.parametrize("uri", ["rtsp://u:p/ss@host/x", "rtsp://u:p#ss@host/x", "rtsp://u:p?ss@host/x"])
def test_a_password_that_would_be_parsed_as_a_path_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(SourceError, match="%2F") as caught:
        parse_source(uri, ())
    assert "ss" not in caught.value.detail.replace("password", "")


@pytest.mark.parametrize("text", ["rtsp://[::1/x", "rtsp://[zz]/", "a\0b", "~nosuchuser/x", "x" * 5000, "\udcff.mp4"])
def test_invalid_names_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        parse_source(text, (tmp_path,))


def test_a_file_url_may_be_percent_encoded(tmp_path: Path) -> None:
    (tmp_path / "my file.mp4").touch()
    assert parse_source(f"file://{tmp_path}/my%20file.mp4", (tmp_path,)).name == "my file.mp4"


def test_a_folder_and_a_local_camera_are_sources(tmp_path: Path) -> None:
    folder, camera = parse_source(str(tmp_path), (tmp_path,)), parse_source("/dev/video0", ())
    assert (folder.kind, folder.is_live) == ("folder", False)
    assert (camera.kind, camera.is_live) == ("device", True)
