"""A fake RTSP server to which clients publish video over TCP (RFC 2326), for tests without GStreamer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import BinaryIO


class RtspServer:
    """A server that takes one publication after another, and counts what it gets.

    With ``status``, it answers the announcement of a video with this status instead of accepting it. With ``silent``,
    it accepts connections and answers nothing.
    """

    def __init__(self, *, status: str = "200 OK", silent: bool = False) -> None:
        self.announced: list[str] = []  # the headers of each announcement
        self.ended = 0  # the publications that their clients have ended properly
        self.frames = 0  # packets with the mark that RTP sets on the last packet of a frame
        self.timestamps: list[int] = []  # of RTP, one for each frame, in units of 1/90,000 s
        self._status = status
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self) -> None:
        """Break all connections."""
        for connection in self._connections:
            with suppress(OSError):  # the client may have disconnected
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def close(self) -> None:
        """Stop listening, and break all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            if not self._silent:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as received:
            try:
                while start := received.read(1):
                    if start == b"$":
                        self._take_packet(received)
                    elif not self._answer(connection, start + received.readline(), received):
                        return
            except OSError:
                return

    def _take_packet(self, received: BinaryIO) -> None:
        channel, size = received.read(1), int.from_bytes(received.read(2), "big")
        packet = received.read(size)
        if channel == b"\0" and packet[1] >> 7:
            self.frames += 1
            self.timestamps.append(int.from_bytes(packet[4:8], "big"))

    def _answer(self, connection: socket.socket, request: bytes, received: BinaryIO) -> bool:
        method, lines = request.split()[0].decode(), []
        while line := received.readline().strip():
            lines.append(line.decode())
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        received.read(int(headers.get("content-length", 0)))
        status = "200 OK"
        if method == "ANNOUNCE":
            self.announced.append("\n".join([request.decode().strip(), *lines]))
            status = self._status
        more = f"Transport: {headers.get('transport')}\r\n" if method == "SETUP" else ""
        answer = f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq')}\r\nSession: 1\r\n{more}\r\n"
        connection.sendall(answer.encode())
        if method == "TEARDOWN":
            self.ended += 1
        return method != "TEARDOWN"
