"""A real RTSP server, run by the system's own Python, which has GStreamer. See rtsp.py.

    /usr/bin/python3 rtsp_server.py '{"port": 0, "user": "", "password": "", "digest": false,
                                      "mounts": {"front": {"clip": "front.mp4", "fps": 0}}}'

It tells "ready PORT" on stdout, then takes a line of JSON at a time on stdin and answers "ok":
    {"mount": "front", "send": "video" | "junk" | "nothing"}    {"mount": "front", "clip": "other.mp4"}
    {"mount": "front", "times": true}, which is answered with when pictures were sent (monotonic)
Clips are read once and passed through as they are, from their first picture again after their last.
"""

import json
import os
import random
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
CAPS = "video/x-h264,stream-format=byte-stream,alignment=au"


def read(path):
    """Return a clip's pictures as (bytes, whether it is a key), and the nanoseconds of one."""
    line = Gst.parse_launch(
        f'filesrc location="{path}" ! qtdemux ! h264parse config-interval=-1 ! {CAPS} '
        "! appsink name=out sync=false"
    )
    out = line.get_by_name("out")
    line.set_state(Gst.State.PLAYING)
    units, stamps = [], []
    while True:
        sample = out.emit("pull-sample")
        if sample is None:
            break
        buffer = sample.get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        units.append((data, not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)))
        stamps.append(buffer.dts if buffer.dts != Gst.CLOCK_TIME_NONE else buffer.pts)
    line.set_state(Gst.State.NULL)
    while units and not units[0][1]:
        units.pop(0)
    if not units:
        sys.exit(f"{path}: no H.264 in it")
    return units, (stamps[-1] - stamps[0]) // max(1, len(stamps) - 1)


CLIPS = {}


class Mount:
    """One stream: a clip in a loop, pushed in its own time to whoever watches."""

    def __init__(self, clip, fps=0):
        self.send, self.fps, self.times = "video", fps, []
        self.show(clip)

    def show(self, clip):
        if clip not in CLIPS:
            CLIPS[clip] = read(clip)
        self.units, step = CLIPS[clip]
        self.step = Gst.SECOND // self.fps if self.fps else step
        self.at = 0

    def factory(self):
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(
            f"( appsrc name=in is-live=true format=time block=false max-bytes=4000000 caps={CAPS} "
            "! rtph264pay name=pay0 pt=96 config-interval=0 )"
        )
        factory.set_shared(True)
        factory.connect("media-configure", self.watched)
        return factory

    def watched(self, factory, media):
        """Someone watches: push until nobody does."""
        stop = threading.Event()
        media.connect("unprepared", lambda media: stop.set())
        source = media.get_element().get_by_name("in")
        self.at = 0
        threading.Thread(target=self.push, args=(source, stop), daemon=True).start()

    def push(self, source, stop):
        began, stamp, self.times = time.monotonic(), 0, []
        while not stop.is_set():
            data, _ = self.units[self.at % len(self.units)]
            self.at += 1
            if self.send == "junk":  # as long as the real one, and none of its start codes
                data = b"\0\0\0\1" + random.Random(self.at).randbytes(len(data)).replace(
                    b"\0\0", b"\1\1"
                )
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.pts = buffer.dts = stamp
            buffer.duration = self.step
            self.times.append(time.monotonic())
            if self.send != "nothing" and source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return
            stamp += self.step
            late = time.monotonic() - began - stamp / Gst.SECOND
            if late > 0.5:  # it was stopped for a while: a camera does not send that later
                began += late
            stop.wait(max(0, -late))


def guard(server, factory, wanted):
    """Let in only who knows user and password."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if wanted.get("digest"):
        auth.set_supported_methods(2)  # GST_RTSP_AUTH_DIGEST
        auth.add_digest(wanted["user"], wanted["password"], token)
    else:
        basic = GstRtspServer.RTSPAuth.make_basic(wanted["user"], wanted["password"])
        auth.add_basic(basic, token)
    server.set_auth(auth)


def roles(factory):
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


def listen(mounts):
    for line in sys.stdin:
        order = json.loads(line)
        mount = mounts[order["mount"]]
        if "clip" in order:
            mount.show(order["clip"])
        mount.send = order.get("send", mount.send)
        print(json.dumps(mount.times) if "times" in order else "ok", flush=True)
    os._exit(0)  # whoever started this is gone


def main():
    wanted = json.loads(sys.argv[1])
    mounts = {name: Mount(**mount) for name, mount in wanted["mounts"].items()}
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(wanted.get("port") or 0))
    for name, mount in mounts.items():
        factory = mount.factory()
        if wanted.get("user"):
            roles(factory)
        server.get_mount_points().add_factory("/" + name, factory)
    if wanted.get("user"):
        guard(server, None, wanted)
    if not server.attach(None):
        sys.exit("the port is taken")
    print("ready", server.get_bound_port(), flush=True)
    threading.Thread(target=listen, args=(mounts,), daemon=True).start()
    GLib.MainLoop().run()


main()
