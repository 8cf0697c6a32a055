"""Reading of HLS playlists (RFC 8216), whose segments are concatenated to the bytes of one video.

FFmpeg's own HLS reader accepts only segments with certain file names, fetches the segments of every variant, and does
not check the addresses of segments and keys. This reader fetches segments and keys through the source's ``WebClient``,
which checks every address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urljoin

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from serve_app.errors import SourceDenied, SourceError, SourceGone, SourceStalled
from serve_app.video.web import Reply, WebClient

_MAX_PLAYLIST_BYTES = 4 << 20
_KEY_BYTES = 16
_LIVE_SEGMENTS = 3  # a live stream starts this many segments before its playlist's end (RFC 8216, 6.3.3)
_MAX_GONE = 3  # a live source fails after this many missing segments in a row
_STALLED_AFTER_TARGETS = 3  # a live source stalls after this many target durations without a new segment
_STALLED_AFTER_S = 10.0  # a live source never stalls earlier than this
_MAX_POLL_S = 3.0
_AUDIO_CODECS = ("mp4a", "ac-3", "ec-3", "ac-4", "opus", "flac", "alac")  # in the attribute CODECS (RFC 6381)
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)')


@dataclass(frozen=True)
class Key:
    """The key of an encrypted segment (AES-128 in CBC mode)."""

    url: str
    iv: bytes | None  # the initialization vector; None if it is the segment's number


@dataclass(frozen=True)
class Part:
    """A resource, or a byte range of it."""

    url: str
    key: Key | None
    first_byte: int = 0
    size: int | None = None  # in bytes; None for everything up to the end


@dataclass(frozen=True)
class Segment:
    """One segment of a playlist: a few seconds of video."""

    number: int
    part: Part
    head: Part | None  # the initialization section, which precedes the first segment that names it
    begins_run: bool = False  # whether a discontinuity precedes this segment (RFC 8216, 4.3.2.3)


@dataclass
class Playlist:
    """The current segments of a playlist, and whether it is complete."""

    segments: list[Segment] = field(default_factory=list)
    target_s: float = 6.0
    has_end: bool = False


class HlsBody:
    """A playlist's video as a file-like object that cannot seek.

    A run is a sequence of segments without a discontinuity. ``read`` reports an end of the file after each run, because
    the tracks, codecs and frame sizes of the next run may differ.
    """

    def __init__(self, client: WebClient, reply: Reply, name: str, max_pixels: int) -> None:
        """Read the playlist in the response ``reply``.

        If this playlist lists variants, read the playlist of the largest variant that has at most ``max_pixels``.

        Raise SourceError if the playlist cannot be read.
        """
        self._client = client
        self._name = name
        text, self._url = self._text_of(reply), reply.url
        if variant := _variant(text, self._url, max_pixels):
            text, self._url = self._load(variant)
            if _variant(text, self._url, max_pixels):
                raise SourceError(f"{name} is a master playlist of master playlists, which is not supported")
        self._playlist = parse_playlist(text, self._url, name)
        self.has_end = self._playlist.has_end
        self._keys: dict[str, bytes] = {}  # contains only the latest key, under its URL
        self._chunks = self._all_chunks()
        self._rest = b""
        self._is_between_runs = False

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, or ``b""`` at the end of a run. Raise SourceError if the server fails."""
        while not self._rest:
            if self._is_between_runs:
                return b""
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest, self._is_between_runs = chunk, not chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def next_run(self) -> bool:
        """Continue with the next run. Return False if there is no further run."""
        has_more, self._is_between_runs = self._is_between_runs, False
        return has_more

    def _all_chunks(self) -> Iterator[bytes]:
        """Yield the bytes of all segments, with an empty chunk between two runs."""
        head: Part | None = None
        gone = 0
        is_read = False  # whether any bytes of this run were read
        is_new_run = False  # whether the next bytes start another run
        for segment in self._segments():
            is_new_run |= segment.begins_run or segment.head != head
            if is_new_run and is_read:
                yield b""
                is_read, head = False, None
            try:
                if segment.head is not None and segment.head != head:
                    yield from filter(None, self._chunks_of(segment.head, segment.number))
                    head = segment.head
                for chunk in filter(None, self._chunks_of(segment.part, segment.number)):
                    is_read, is_new_run = True, False
                    yield chunk
                gone = 0
            except SourceDenied:
                raise
            except SourceGone:  # the server may delete a live playlist's segment before we request it
                gone += 1
                if self.has_end or gone >= _MAX_GONE:
                    raise

    def _segments(self) -> Iterator[Segment]:
        """Yield all segments of a recording, or the last three segments of a live playlist and then each new one."""
        if self.has_end:
            yield from self._playlist.segments
            return
        new_segments = self._playlist.segments[-_LIVE_SEGMENTS:]
        newest, newest_at_s = -1, time.monotonic()
        while True:
            for segment in new_segments:
                yield segment
                newest, newest_at_s = segment.number, time.monotonic()
            if self._playlist.has_end:
                return
            stall_timeout_s = max(_STALLED_AFTER_S, _STALLED_AFTER_TARGETS * self._playlist.target_s)
            if time.monotonic() - newest_at_s > stall_timeout_s:
                raise SourceStalled(f"{self._name} has no new segments in its playlist")
            if not new_segments:
                time.sleep(min(self._playlist.target_s / 2, _MAX_POLL_S))
            text, self._url = self._load(self._url)
            self._playlist = parse_playlist(text, self._url, self._name)
            numbers = [segment.number for segment in self._playlist.segments]
            if numbers and numbers[-1] < newest:  # the server has restarted its numbering
                newest = numbers[-1] - _LIVE_SEGMENTS
            new_segments = [segment for segment in self._playlist.segments if segment.number > newest]

    def _load(self, url: str) -> tuple[str, str]:
        reply = self._client.get(url)
        return self._text_of(reply), reply.url

    def _text_of(self, reply: Reply) -> str:
        with closing(reply):
            data = reply.read_all(_MAX_PLAYLIST_BYTES)
        if data is None:
            raise SourceError(f"{self._name} has a playlist of more than {_MAX_PLAYLIST_BYTES >> 20} MiB")
        text = data.decode("utf-8-sig", "replace")
        if "#EXT-X-DEFINE" in text:
            raise SourceError(f"{self._name} has a playlist with variables (EXT-X-DEFINE), which are not supported")
        return text

    def _chunks_of(self, part: Part, number: int) -> Iterator[bytes]:
        chunks = self._raw_chunks_of(part)
        if part.key is None:
            return chunks
        iv = part.key.iv if part.key.iv is not None else number.to_bytes(_KEY_BYTES, "big")
        return self._decrypted(chunks, self._key(part.key.url), iv)

    def _raw_chunks_of(self, part: Part) -> Iterator[bytes]:
        last = "" if part.size is None else str(part.first_byte + part.size - 1)
        is_range = part.size is not None or part.first_byte > 0
        reply = self._client.get(part.url, {"Range": f"bytes={part.first_byte}-{last}"} if is_range else {})
        with closing(reply):
            skipped = part.first_byte if reply.status == 200 else 0  # status 200: the server ignored the range
            left = part.size
            while (left is None or left > 0) and (chunk := reply.read()):
                if skipped:
                    skipped, chunk = max(0, skipped - len(chunk)), chunk[skipped:]
                chunk = chunk[:left]
                left = None if left is None else left - len(chunk)
                yield chunk

    def _key(self, url: str) -> bytes:
        if url not in self._keys:
            with closing(self._client.get(url)) as reply:
                key = reply.read_all(1024)
            if key is None or len(key) != _KEY_BYTES:
                raise SourceError(f"{self._name} has a key that is not valid for AES-128; it must have 16 bytes")
            self._keys = {url: key}
        return self._keys[url]

    def _decrypted(self, chunks: Iterator[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        padding = PKCS7(8 * _KEY_BYTES).unpadder()
        try:
            for chunk in chunks:
                yield padding.update(decryptor.update(chunk))
            yield padding.update(decryptor.finalize()) + padding.finalize()
        except ValueError:
            raise SourceError(f"{self._name} has segments that its key does not decrypt; check the key") from None


def parse_playlist(text: str, url: str, name: str) -> Playlist:
    """Parse a media playlist that was read from ``url``.

    Raise SourceError if the text is not a playlist, or if the playlist needs an unsupported feature.
    """
    if not text.lstrip().startswith("#EXTM3U"):
        raise SourceError(f"{name} has a playlist that is not valid: it does not start with #EXTM3U")
    playlist = Playlist()
    number, head = 0, None
    keys: dict[str, dict[str, str]] = {}  # by key format; a player needs only one of these keys
    span: tuple[int, int] | None = None  # the next segment's first byte and size
    after: dict[str, int] = {}  # the end of each URL's last range; a range without a first byte starts there
    is_gap, begins_run = False, False
    for line in filter(None, map(str.strip, text.splitlines())):
        tag, _, value = line.partition(":")
        if not line.startswith("#"):
            target = _join_url(url, line)
            first_byte, size = (0, None) if span is None else span
            if size is not None:
                first_byte = after.get(target, 0) if first_byte < 0 else first_byte
                after[target] = first_byte + size
            if not is_gap:
                part = Part(target, _key_of(keys, url, name), first_byte, size)
                playlist.segments.append(Segment(number, part, head, begins_run))
                begins_run = False
            number, span, is_gap = number + 1, None, False
        elif tag == "#EXT-X-MEDIA-SEQUENCE":
            number = _to_int(value) + len(playlist.segments)
        elif tag == "#EXT-X-TARGETDURATION":
            playlist.target_s = float(max(1, min(_to_int(value), 60)))
        elif tag == "#EXT-X-DISCONTINUITY":
            begins_run = True
        elif tag == "#EXT-X-KEY":
            attributes = _attributes(value)
            if attributes.get("METHOD", "NONE") == "NONE":
                keys = {}
            else:
                keys = keys | {attributes.get("KEYFORMAT", "identity"): attributes}
        elif tag == "#EXT-X-MAP":
            attributes = _attributes(value)
            first_byte, size = _parse_byte_range(attributes["BYTERANGE"]) if "BYTERANGE" in attributes else (0, None)
            head = Part(_join_url(url, attributes.get("URI", "")), _key_of(keys, url, name), max(0, first_byte), size)
        elif tag == "#EXT-X-BYTERANGE":
            span = _parse_byte_range(value)
        elif tag == "#EXT-X-GAP":
            is_gap = True
        elif tag == "#EXT-X-ENDLIST":
            playlist.has_end = True
    return playlist


def _variant(text: str, url: str, max_pixels: int) -> str | None:
    """Return the URL of a master playlist's best variant, or None if the text is not a master playlist."""
    best: tuple[bool, int, int] | None = None
    chosen: str | None = None
    attributes: dict[str, str] | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#EXT-X-STREAM-INF:"):
            attributes = _attributes(line)
        elif not line.startswith("#") and attributes is not None:
            width_px, _, height_px = attributes.get("RESOLUTION", "").lower().partition("x")
            pixels = _to_int(width_px) * _to_int(height_px)
            bandwidth = _to_int(attributes.get("BANDWIDTH", ""))
            rank = _has_video(attributes.get("CODECS", "")), (pixels if pixels <= max_pixels else -1), bandwidth
            if best is None or rank > best:
                best, chosen = rank, _join_url(url, line)
            attributes = None
    return chosen


def _has_video(codecs: str) -> bool:
    """Return whether a variant may contain video. If the variant does not name its codecs, return True."""
    return not all(codec.strip().lower().startswith(_AUDIO_CODECS) for codec in codecs.split(",")) if codecs else True


def _join_url(url: str, address: str) -> str:
    """Return the absolute URL. Return an invalid address unchanged, because the request for it will raise an error."""
    try:
        return urljoin(url, address)
    except ValueError:
        return address


def _attributes(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(text)}


def _key_of(keys: dict[str, dict[str, str]], url: str, name: str) -> Key | None:
    """Return the key of the next segments, or None if they are not encrypted.

    Raise SourceError if the playlist offers no key of a supported kind.
    """
    if not keys:
        return None
    attributes = keys.get("identity", {})
    if attributes.get("METHOD") != "AES-128":
        raise SourceError(f"{name} uses unsupported HLS encryption; only AES-128 with a plain key is supported")
    if attributes.get("URI", "").startswith("data:"):
        raise SourceError(
            f"{name} has a key inside the playlist (data:), which is not supported; serve the key over HTTP"
        )
    digits = attributes.get("IV", "").lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{0,32}", digits):
        raise SourceError(f"{name} has a playlist with an IV that is not valid; it must be 0x and up to 32 hex digits")
    iv = int(digits, 16).to_bytes(_KEY_BYTES, "big") if digits else None
    return Key(_join_url(url, attributes.get("URI", "")), iv)


def _parse_byte_range(text: str) -> tuple[int, int]:
    """Parse a byte range of the form ``size@first_byte``.

    Return the index of the first byte, or -1 if it is missing, and the size in bytes.
    """
    size, _, first_byte = text.strip().partition("@")
    return _to_int(first_byte) if first_byte else -1, _to_int(size)


def _to_int(text: str) -> int:
    digits = text.strip().split(".")[0]
    return int(digits) if digits.isdecimal() and len(digits) < 19 else 0
