"""Interlaced H.264 videos whose fields are packets of their own, which no encoder of FFmpeg produces."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

_CLOCK_HZ = 90_000
_FRAME = _CLOCK_HZ // 25
_WIDTH, _HEIGHT = 4, 2  # of a field, in macroblocks of 16x16 pixels
_SLICE_I, _SLICE_P = 7, 5
_I_PCM = 25  # the macroblock type that holds uncompressed pixels


class _Bits:
    """A string of bits, with the codes of ITU-T H.264, 9.1."""

    def __init__(self) -> None:
        self._bits = ""

    def u(self, value: int, bits: int = 1) -> _Bits:
        self._bits += f"{value:0{bits}b}"
        return self

    def ue(self, *values: int) -> _Bits:
        for value in values:
            self._bits += "0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}"
        return self

    def align(self) -> _Bits:
        self._bits += "0" * (-len(self._bits) % 8)
        return self

    def unit(self, kind: int) -> bytes:
        """Return a NAL unit of this kind, with the bits as its payload."""
        self.u(1).align()
        data = bytearray()
        for start in range(0, len(self._bits), 8):
            byte = int(self._bits[start : start + 8], 2)
            if byte <= 3 and data[-2:] == b"\0\0":
                data.append(3)  # prevents that the payload contains a start code
            data.append(byte)
        return b"\0\0\0\1" + bytes([(0 if kind == 9 else 3) << 5 | kind]) + bytes(data)


def _headers() -> bytes:
    sequence = _Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 0, 4, 2).u(0)  # Main profile, level 3, 2 reference frames
    sequence.ue(_WIDTH - 1, _HEIGHT - 1).u(0).u(0).u(1).u(0)  # fields are allowed
    sequence.u(1).u(0, 4).u(1).u(1, 32).u(50, 32).u(1).u(0, 3).u(1).u(1).ue(0, 0, 10, 10, 0, 2)  # 50 fields per second
    picture = _Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0).u(0, 2).ue(0, 0, 0).u(0, 3)
    return sequence.unit(7) + picture.unit(8)


def _field(number: int, is_bottom: bool) -> bytes:
    """Return a field: a grey one of uncompressed pixels if it begins a group, and otherwise a copy of the last one."""
    is_key = number == 0 and not is_bottom
    bits = _Bits().ue(0, _SLICE_I if is_key else _SLICE_P, 0).u(number % 16, 4).u(1).u(is_bottom)
    if is_key:
        bits.ue(0)
    bits.u((2 * number + is_bottom) % 256, 8)
    if is_key:
        bits.u(0, 2)
    else:
        bits.u(1).ue(0).u(0).u(0)
    bits.ue(0)
    if is_key:
        for _ in range(_WIDTH * _HEIGHT):
            bits.ue(_I_PCM).align().u(int.from_bytes(bytes([80] * 256 + [128] * 128)), 8 * 384)
    else:
        bits.ue(_WIDTH * _HEIGHT)
    return bits.unit(5 if is_key else 1)


def save_fields(path: Path, *, frames: int, group: int) -> Path:
    """Save a video of 25 frames per second, each of two packets, with a key frame in each ``group`` of frames."""
    raw = path.with_suffix(".h264")
    delimiter = _Bits().u(7, 3).unit(9)
    fields = [
        delimiter + (_headers() if number % group == 0 and not is_bottom else b"") + _field(number % group, is_bottom)
        for number in range(frames)
        for is_bottom in (False, True)
    ]
    raw.write_bytes(b"".join(fields))
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, field in enumerate(fields):
            packet = av.Packet(field)
            packet.stream, packet.time_base = stream, Fraction(1, _CLOCK_HZ)
            packet.pts = packet.dts = _CLOCK_HZ + number * _FRAME // 2
            packet.is_keyframe = number % (2 * group) == 0
            container.mux(packet)
    return path
