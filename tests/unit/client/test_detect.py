"""Detect objects with both clients. Images arrive unchanged, and results and errors are returned."""

from __future__ import annotations

import inspect
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from scripts.launch import free_port
from serve_app.api.access.keys import make_key
from serve_app.client import ApiError, AsyncClient, Client, ConnectionFailed, DetectResult
from serve_app.errors import Overloaded, RateLimited
from serve_app.images.decode import decode
from serve_app.types import DetectOptions
from tests.support.stream_server import StreamServer, serve_streams

RNG = np.random.default_rng(7)
BGR = RNG.integers(0, 256, (48, 64, 3), np.uint8)
GREY = RNG.integers(0, 256, (48, 64), np.uint8)


def received(served: StreamServer) -> np.ndarray:
    """Return the last image that the server received, decoded as the server does."""
    return decode(served.backend.pictures[-1], 10**6)


def save(folder: Path) -> Path:
    cv2.imwrite(str(folder / "a.png"), BGR)
    return folder / "a.png"


class AnyPath:
    """A path object that is neither a string nor a Path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


SAME_PICTURE: dict[str, Callable[[Path], Any]] = {
    "a path": save,
    "a path as text": lambda folder: str(save(folder)),
    "a path of another class": lambda folder: AnyPath(save(folder)),
    "bytes": lambda folder: save(folder).read_bytes(),
    "a bytearray": lambda folder: bytearray(save(folder).read_bytes()),
    "an array": lambda _: BGR,
    "an array that is not contiguous": lambda _: np.pad(BGR, ((1, 2), (3, 4), (0, 0)))[1:-2, 3:-4],
    "a view of RGB": lambda _: np.ascontiguousarray(BGR[..., ::-1])[..., ::-1],
    "a PIL image": lambda _: Image.fromarray(BGR[..., ::-1]),
    "a PIL image with alpha": lambda _: Image.fromarray(BGR[..., ::-1]).convert("RGBA"),
}


@pytest.mark.parametrize("make", SAME_PICTURE.values(), ids=SAME_PICTURE)
def test_every_kind_of_picture_arrives_unchanged(
    client: Any, served: StreamServer, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    result = client.detect(make(tmp_path))
    assert (received(served) == BGR).all()
    assert (result.labels, result.model, result.batch_size) == (["dog"], "fake", 3)


@pytest.mark.parametrize("picture", [GREY, Image.fromarray(GREY)], ids=["array", "PIL"])
def test_a_grey_picture_arrives_unchanged(client: Any, served: StreamServer, picture: Any) -> None:
    client.detect(picture)
    assert (received(served) == GREY[..., None]).all()


def test_a_pil_image_is_sent_without_applying_its_exif_orientation(client: Any, served: StreamServer) -> None:
    """If the EXIF orientation were applied, the boxes would not match the caller's image."""
    image = Image.fromarray(BGR[..., ::-1])
    image.getexif()[0x0112] = 6
    image.info["exif"] = image.getexif().tobytes()
    client.detect(image)
    assert (received(served) == BGR).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7), (7, 1), (3, 5, 3)])
def test_very_small_pictures_arrive_unchanged(client: Any, served: StreamServer, shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, np.uint8)
    client.detect(pixels)
    assert (received(served) == pixels.reshape(*shape[:2], -1)).all()


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (BGR.astype(np.float32), r"must be uint8 and either BGR.*float32 \(48, 64, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "got uint8"),
        (7, "expected a path, the bytes .* but got int"),
        (None, "but got NoneType"),
        ([BGR], "but got list"),
    ],
)
def test_an_argument_that_is_not_a_picture_is_refused_before_sending(
    client: Any, served: StreamServer, picture: Any, sentence: str
) -> None:
    with pytest.raises(TypeError, match=f"image: .*{sentence}"):
        client.detect(picture)
    assert served.backend.pictures == []


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "F"])
def test_a_pil_image_of_more_than_8_bits_is_refused_rather_than_clipped(
    client: Any, served: StreamServer, mode: str
) -> None:
    with pytest.raises(TypeError, match=f"image: a PIL image must have 8 bits per channel, but got mode {mode}"):
        client.detect(Image.new(mode, (4, 3)))
    assert served.backend.pictures == []


def test_an_empty_array_and_a_missing_file_are_refused(client: Any) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        client.detect(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(FileNotFoundError):
        client.detect("nowhere.jpg")


def test_given_thresholds_are_sent_and_others_take_the_servers_defaults(client: Any, served: StreamServer) -> None:
    client.detect(b"picture", model="default", confidence=0.25, iou=0.5, classes=["cat", 1], max_detections=7)
    client.detect(b"picture", classes="dog")
    given, default = served.backend.options
    assert (given.confidence, given.iou, given.class_ids, given.max_detections) == (0.25, 0.5, (0, 1), 7)
    assert (default.confidence, default.class_ids) == (0.5, (1,))


def test_thresholds_for_each_class_are_a_mapping_or_a_text(client: Any, served: StreamServer) -> None:
    for confidence in ({"dog": 0.6, "*": 0.3}, "dog:0.6,*:0.3"):
        client.detect(b"picture", confidence=confidence, agnostic_nms=True, mask="rle")
        client.annotate(b"picture", confidence=confidence, agnostic_nms=True)
    expected = DetectOptions(0.3, 0.7, 300, class_confidence=((1, 0.6),), agnostic_nms=True)
    assert served.backend.options == [expected] * 4


def test_a_single_class_needs_no_list(client: Any, served: StreamServer) -> None:
    for classes in (1, np.int64(1), ["dog", 0], (name for name in ["dog"])):
        client.detect(b"picture", classes=classes)
    assert [given.class_ids for given in served.backend.options] == [(1,), (1,), (0, 1), (1,)]


def test_an_empty_list_of_classes_is_refused(client: Any, served: StreamServer) -> None:
    for call in (
        client.detect,
        client.annotate,
        lambda picture, classes: client.detect_many([picture], classes=classes),
    ):
        with pytest.raises(ValueError, match="classes: the list is empty"):
            call(b"picture", classes=[])
    assert served.backend.pictures == []


def test_a_closed_client_raises_client_closed(connect: Any, served: StreamServer) -> None:
    served.http.post("/streams", json={"id": "lot", "source": {"uri": "a.mp4"}}).raise_for_status()
    served.happen()
    client = connect(served.url)
    following = client.streams.events("lot", after=-1)
    next(following)
    client.close()
    for call in (client.health, lambda: next(client.streams.events("lot"))):
        with pytest.raises(ConnectionFailed, match="this client is closed") as failed:
            call()
        assert not failed.value.is_retryable
    with pytest.raises(ConnectionFailed):  # the iterator does not reconnect
        next(following)


def test_type_hints_can_be_resolved_at_run_time() -> None:
    for one in (Client, AsyncClient, type(Client().streams), type(AsyncClient().streams)):
        for _, method in inspect.getmembers(one, inspect.isfunction):
            assert "return" in get_type_hints(method)


def test_an_error_has_the_code_status_and_retry_time(client: Any, served: StreamServer) -> None:
    with pytest.raises(ApiError, match="truncated or corrupt") as refused:
        client.detect(b"bad")
    error = refused.value
    assert (error.code, error.status_code, error.retry_after_s, error.limit) == ("undecodable", 422, None, None)
    assert not error.is_retryable
    with pytest.raises(ApiError, match="has no class 'unicorn'"):
        client.detect(b"picture", classes=["unicorn"])
    served.backend.failure = Overloaded("the service is at its limit")
    with pytest.raises(ApiError) as refused:
        client.annotate(b"picture")
    assert (refused.value.code, refused.value.retry_after_s, refused.value.is_retryable) == ("overloaded", 1, True)


def test_several_pictures_get_results_in_order_each_with_its_own_error(client: Any) -> None:
    first, bad, last = client.detect_many([b"four", b"bad", b"sixsix"], confidence=0.3)
    assert [one.xyxy.tolist() for one in (first, last)] == [[[0, 0, 4, 10]], [[0, 0, 6, 10]]]
    assert (bad.code, bad.status_code, bad.detail) == ("undecodable", 422, "the image is truncated or corrupt")


def test_the_error_of_one_of_several_pictures_has_a_status_and_retry_time(client: Any, served: StreamServer) -> None:
    served.backend.failure = RateLimited("the rate limit is exceeded")
    errors = client.detect_many([b"one", b"two"])
    assert [(one.status_code, one.retry_after_s, one.is_retryable) for one in errors] == [(429, 1, True)] * 2


def test_detect_many_accepts_one_picture_or_none(client: Any, served: StreamServer) -> None:
    (one,) = client.detect_many([b"four"])
    assert isinstance(one, DetectResult)
    (bad,) = client.detect_many([b"bad"])
    assert bad.code == "undecodable"
    assert client.detect_many([]) == []
    served.backend.failure = Overloaded("the service is at its limit")
    with pytest.raises(ApiError, match="at its limit"):
        client.detect_many([b"four"])


@pytest.mark.parametrize(
    "picture",
    [BGR, GREY, "dock.jpg", b"picture", bytearray(b"picture"), Path("dock.jpg"), Image.fromarray(GREY)],
    ids=lambda picture: type(picture).__name__,
)
def test_detect_many_refuses_a_single_picture(client: Any, served: StreamServer, picture: Any) -> None:
    with pytest.raises(TypeError, match="images: detect_many takes a list of images, but got one"):
        client.detect_many(picture)
    assert served.backend.pictures == []


def test_detect_many_accepts_one_array_of_several_pictures(client: Any) -> None:
    assert len(client.detect_many(np.stack([BGR, BGR]))) == 2


def test_an_error_of_the_whole_request_is_raised(client: Any) -> None:
    with pytest.raises(ApiError, match="more than 32 images") as refused:
        client.detect_many([b"picture"] * 33)
    assert refused.value.code == "too_large"


def test_an_annotated_picture_is_a_jpeg(client: Any) -> None:
    assert client.annotate(BGR).startswith(b"\xff\xd8")


def test_models_health_and_readiness_are_returned(client: Any, served: StreamServer) -> None:
    assert [(model.name, model.state) for model in client.models()] == [("default", "ready"), ("plates", "asleep")]
    assert client.health().status == "ok"
    assert client.ready().model == "fake"
    served.backend.failure = Overloaded("no model is ready")
    with pytest.raises(ApiError, match="no model is ready"):
        client.ready()


def test_an_unreachable_server_is_reported_with_its_url(connect: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionFailed, match=f"no server responds at {url}") as failed:
        connect(url).health()
    assert failed.value.is_retryable


def test_a_server_that_does_not_respond_times_out(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=rf"no response from {url} within 0\.2 s"):
            connect(url, timeout_s=0.2).health()


def test_a_wrong_path_in_the_url_is_an_error(connect: Any, served: StreamServer) -> None:
    with pytest.raises(ApiError, match="no such route"):
        connect(f"{served.url}/elsewhere").ready()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[::1", "localhost:8000"])
def test_a_malformed_url_is_refused_at_once(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="url: "):
        kind(url)


def test_credentials_in_the_url_are_not_shown(connect: Any) -> None:
    port = free_port()
    with pytest.raises(ConnectionFailed, match="no server responds at") as failed:
        connect(f"http://user:secret@127.0.0.1:{port}").health()
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@[::1",
        "http://user:secret@host:port",
        "http://user:80/secret@host",
        "http://user:secret/more@host",
        "http://user:se?secret@host",
        "http://user:se#secret@host",
        "user:secret@host",
        "ftp://user:secret@host",
        "http://user:secret@",
    ],
)
def test_a_malformed_url_with_credentials_is_not_quoted(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="url: ") as refused:
        kind(url)
    assert "secret" not in "".join(traceback.format_exception_only(refused.value))
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("url", ["http://host/?a=1", "http://host?", "http://host/#a", "http://host#"])
def test_a_url_with_a_query_or_a_fragment_is_refused(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="url: it has a query or a fragment"):
        kind(url)


@pytest.mark.parametrize(
    "key", ["secret\nkey", "secret\r\nX: 1", "secret key", "s\u00e9cret", "secret\0", "secret\x7f"]
)
def test_a_key_that_a_header_cannot_contain_is_refused_and_not_quoted(
    kind: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="api_key: it must have only printable ASCII characters") as refused:
        kind(api_key=key)
    assert "cret" not in str(refused.value)
    if "\0" not in key:
        monkeypatch.setenv("SIGHTLINE_KEY", key)
        with pytest.raises(ValueError, match="api_key: "):
            kind()


@pytest.mark.parametrize("url", ["http://user:secret@host", "http://user@host"])
def test_a_key_together_with_a_password_in_the_url_is_refused(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="remove one of them") as refused:
        kind(url, api_key="key")
    assert "secret" not in str(refused.value)


def test_white_space_around_the_environments_url_is_ignored(
    connect: Any, served: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_URL", f" {served.url}\n")
    client = connect()
    assert client.health().status == "ok"
    assert client.url == served.url


def test_the_environment_names_the_server_and_the_key(
    connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, entry = make_key("dock", ["detect"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    with serve_streams({"access": {"keys_file": str(tmp_path / "keys.yaml")}}) as served:
        monkeypatch.setenv("SIGHTLINE_URL", served.url)
        with pytest.raises(ApiError, match="needs an API key") as refused:
            connect().detect(b"picture")
        assert (refused.value.code, refused.value.status_code) == ("unauthorized", 401)
        assert connect(api_key=key).detect(b"picture").labels == ["dog"]
        monkeypatch.setenv("SIGHTLINE_KEY", f"{key}\n")
        client = connect()
        assert client.detect(b"picture").labels == ["dog"]
        assert client.url == served.url
        with pytest.raises(ApiError) as refused:
            client.streams.list()
        assert refused.value.code == "forbidden"


def test_the_environments_proxy_is_not_used(
    connect: Any, served: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert connect(served.url).health().status == "ok"


def test_both_clients_have_the_same_methods() -> None:
    for one, other in ((Client, AsyncClient), (type(Client().streams), type(AsyncClient().streams))):
        methods = {name: inspect.signature(method) for name, method in inspect.getmembers(one, inspect.isfunction)}
        others = {name: inspect.signature(method) for name, method in inspect.getmembers(other, inspect.isfunction)}
        dunder = {"__enter__", "__exit__", "__aenter__", "__aexit__", "__init__"}
        assert methods.keys() - dunder == others.keys() - dunder
        for name in methods.keys() - dunder:
            assert methods[name].parameters.keys() == others[name].parameters.keys()


def test_supervision_is_only_needed_for_to_supervision(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = client.detect(b"picture")
    assert "supervision" not in str(type(result))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        result.to_supervision()
