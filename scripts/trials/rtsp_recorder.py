"""An RTSP server for trials, to which clients publish H.264 video. It writes the video to a file.

Run this with the system's Python, which has GStreamer:
/usr/bin/python3 rtsp_recorder.py PORT FILE [USER:PASSWORD]
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # gi.require_version must be called before this import


def main(port: str, file: str, credentials: str = "") -> None:
    """Take the video that is published at /live until the process is killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(
        "( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream "
        f"! filesink location={file} buffer-mode=unbuffered )"
    )
    if credentials:
        user, password = credentials.split(":")
        auth = GstRtspServer.RTSPAuth.new()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "publisher")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("publisher", "media.factory.access", True)
        permissions.add_permission_for_role("publisher", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
