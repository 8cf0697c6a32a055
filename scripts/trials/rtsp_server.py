"""An RTSP server for trials, which is a camera or takes video.

Run this with the system's Python, which has GStreamer:
/usr/bin/python3 rtsp_server.py PORT camera FOLDER FPS [USER:PASSWORD]
/usr/bin/python3 rtsp_server.py PORT recorder FILE [USER:PASSWORD]
"""

from __future__ import annotations

import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # gi.require_version must be called before this import


def camera(folder: str, fps: str) -> Any:
    """Return a factory that shows the JPEG files of a folder in an endless loop."""
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(
        f"( multifilesrc location={folder}/%d.jpg index=0 loop=true caps=image/jpeg,framerate={fps}/1 "
        f"! jpegdec ! videorate ! video/x-raw,framerate={fps}/1 ! jpegenc quality=95 ! rtpjpegpay name=pay0 )"
    )
    factory.set_shared(True)
    return factory


def recorder(file: str) -> Any:
    """Return a factory that writes the H.264 video that clients publish to a file."""
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(
        "( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream "
        f"! filesink location={file} buffer-mode=unbuffered )"
    )
    return factory


def serve(port: str, path: str, factory: Any, credentials: str = "") -> None:
    """Serve a factory at a path until the process is killed."""
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    if credentials:
        user, password = credentials.split(":")
        auth = GstRtspServer.RTSPAuth.new()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "client")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("client", "media.factory.access", True)
        permissions.add_permission_for_role("client", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    GLib.MainLoop().run()


def main(port: str, kind: str, *arguments: str) -> None:
    """Run the camera at /cam, or the recorder at /live."""
    Gst.init(None)
    if kind == "camera":
        folder, fps, *credentials = arguments
        serve(port, "/cam", camera(folder, fps), *credentials)
    else:
        file, *credentials = arguments
        serve(port, "/live", recorder(file), *credentials)


if __name__ == "__main__":
    main(*sys.argv[1:])
