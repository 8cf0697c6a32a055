"""Decoding of video by hardware: NVDEC (``cuda``), VA-API, Quick Sync (``qsv``) and AMF.

FFmpeg has two kinds of hardware decoders. With ``cuda`` and ``vaapi``, its usual decoder of a codec uses the hardware.
With ``qsv`` and ``amf``, the hardware has a decoder of its own, such as ``h264_qsv``. If no hardware decodes a video,
it is decoded in software, and ``Decoding.detail`` and the log say why.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

from serve_app.video.decoding import Decoding
from serve_app.video.failures import captured_log
from serve_app.video.orientation import matrix_of

logger = logging.getLogger(__name__)

_ERRORS = (av.FFmpegError, OSError, ValueError, NotImplementedError)


class _Unavailable(Exception):
    """The requested hardware cannot decode. The text says why."""


class SeparateDecoder:
    """A hardware decoder that is not FFmpeg's usual decoder of the codec, with the parameters of a video track."""

    def __init__(self, name: str, stream: Any, accelerator: HWAccel | None) -> None:
        """Prepare the decoder ``name`` for a track. Raise FFmpegError if the hardware cannot be opened."""
        usual = stream.codec_context
        context: Any = av.CodecContext.create(name, "r", hwaccel=accelerator)
        context.extradata = usual.extradata
        context.width, context.height = usual.width, usual.height
        self.context = context
        self._usual: Any = usual
        self.matrix: bytes | None = None

    def find_matrix(self, packet: Any) -> None:
        """Read the display matrix, once, from the first frame that can be decoded in software.

        PyAV gives the matrix, which is a property of the track, only to the track's usual decoder.
        """
        if self._usual is None:
            return
        try:
            frames = self._usual.decode(packet) + self._usual.decode(None)
            self._usual.flush_buffers()
        except av.FFmpegError:
            return
        if frames:
            self._usual, self.matrix = None, matrix_of(frames[0])


def open_accelerator(decoding: Decoding) -> HWAccel | None:
    """Return the hardware that ``decoding`` asks for, or None, with the reason in ``decoding``, if there is none.

    We open the device before each video, because opening a video with a missing device fails.
    """
    if decoding.hwaccel is None:
        return None
    try:
        return _open_device(decoding.hwaccel)
    except _Unavailable as exc:
        _use_software(decoding, str(exc))
        return None


def find_decoder(stream: Any, accelerator: HWAccel | None, decoding: Decoding) -> SeparateDecoder | None:
    """Return the hardware's own decoder for a track, or None if the track's usual decoder is the one to use."""
    usual, kind = stream.codec_context, decoding.hwaccel
    if accelerator is None or kind is None or usual.is_hwaccel:
        return None
    name = f"{usual.name}_{kind}"
    if _codec(name, kind) is None:
        _use_software(decoding, f"this PyAV has no {kind} decoder for {usual.name}")
        return None
    try:
        return SeparateDecoder(name, stream, accelerator)
    except _ERRORS as exc:
        _use_software(decoding, f"the {kind} hardware cannot be opened: {type(exc).__name__}")
        return None


def _open_device(kind: str) -> HWAccel:
    if kind not in (kinds := hwdevices_available()):
        raise _Unavailable(f"this PyAV has no {kind}, only {', '.join(kinds)}; install a PyAV that has it")
    decoder = next((codec for name in ("h264", f"h264_{kind}") if (codec := _codec(name, kind))), None)
    if decoder is None:
        raise _Unavailable(f"this PyAV has no {kind} decoder; choose other hardware")
    # Ray hides all GPUs from a process that requests none. The decoder can be used anyway, because it is a separate
    # unit of the GPU.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    accelerator = HWAccel(kind, allow_software_fallback=True)
    why = ""
    with captured_log() as lines:
        try:
            accelerator.create(decoder)
        except _ERRORS as exc:
            why = type(exc).__name__
    if why:
        why = "; ".join(line.strip() for line in lines) or why
        raise _Unavailable(f"the {kind} hardware cannot be opened: {why}")
    return accelerator


def note_frame(context: Any, decoding: Decoding) -> None:
    """Record, after a frame was decoded, whether the hardware decoded it.

    FFmpeg asks the hardware only when it has seen the video's headers, and then silently uses software if it must.
    """
    if decoding.hwaccel is None or decoding.detail or decoding.hardware:
        return
    if context.pix_fmt in {config.format.name for config in context.codec.hardware_configs if config.format}:
        decoding.hardware = decoding.hwaccel
    else:
        _use_software(decoding, f"the {decoding.hwaccel} hardware does not decode this kind of {context.codec.name}")


def _codec(name: str, kind: str) -> Any:
    """Return FFmpeg's decoder ``name`` if it uses this kind of hardware, else None."""
    try:
        codec = av.Codec(name, "r")
    except ValueError:  # includes av.codec.UnknownCodecError
        return None
    return codec if any(config.device_type.name == kind for config in codec.hardware_configs) else None


def _use_software(decoding: Decoding, why: str) -> None:
    decoding.detail = f"streams.hwaccel: {why}"
    _log_once(decoding.detail)


@functools.cache
def _log_once(detail: str) -> None:
    """Log the reason once in a process, and not at each reconnect."""
    logger.warning("%s; the video is decoded in software", detail)
