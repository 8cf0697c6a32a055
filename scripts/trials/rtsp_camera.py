"""An RTSP server for trials that shows the JPEG files of a folder in an endless loop.

Run this with the system's Python, which has GStreamer:
/usr/bin/python3 rtsp_camera.py PORT FOLDER FPS [USER:PASSWORD]
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # gi.require_version must be called before this import


def main(port: str, folder: str, fps: str, credentials: str = "") -> None:
    """Serve the images at /cam until the process is killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(
        f"( multifilesrc location={folder}/%d.jpg index=0 loop=true caps=image/jpeg,framerate={fps}/1 "
        f"! jpegdec ! videorate ! video/x-raw,framerate={fps}/1 ! jpegenc quality=95 ! rtpjpegpay name=pay0 )"
    )
    factory.set_shared(True)
    if credentials:
        user, password = credentials.split(":")
        auth = GstRtspServer.RTSPAuth.new()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
