"""Stands in for Picamera2 0.3.36 with two cameras, and checks each call against its documentation.

Only what is named here can be called, with the arguments that the library has; anything else is an
error, and so is what Picamera2 refuses. Pictures are a ramp whose lines are padded as libcamera
pads them. `state` lets a test hold the camera back, and see what was given back.
"""

import concurrent.futures
import threading
from types import SimpleNamespace

import numpy as np

state = SimpleNamespace(taken=set(), held=0, silent=threading.Event(), seen={}, stride=64)


class CompletedRequest:
    def __init__(self, number, config):
        self._number, self._config, self._released = number, config, False
        state.held += 1

    def make_array(self, name):
        assert name == "main" and not self._released
        width, height = self._config["size"]
        stride = self._config["stride"]
        lines = np.full((height * 3 // 2, stride), 77, np.uint8)  # 77 is padding
        lines[:height, :width] = (np.arange(width) + self._number) % 200 + 20
        color = lines.reshape(-1)[height * stride :].reshape(height, stride // 2)
        color[:, : width // 2] = 128
        return lines

    def release(self):
        assert not self._released, "released twice"
        self._released = True
        state.held -= 1


class Picamera2:
    @staticmethod
    def global_camera_info():
        names = ("/base/soc/i2c0mux/i2c@1/imx708@1a", "/base/soc/i2c0mux/i2c@0/ov5647@36")
        return [
            {"Model": name[-9:-3], "Location": 2, "Rotation": 180, "Id": name, "Num": number}
            for number, name in enumerate(names)
        ]

    def __init__(self, camera_num=0, verbose_console=None, tuning=None, allocator=None):
        assert type(camera_num) is int and camera_num < 2
        if camera_num in state.taken:
            raise RuntimeError("Camera __init__ sequence did not complete.")
        state.taken.add(camera_num)
        self._num, self._config, self._started, self._count = camera_num, None, False, 0

    def create_video_configuration(
        self, main, lores=None, raw=None, transform=None, colour_space=None, buffer_count=6,
        controls=None, display="main", encode="main", queue=True, sensor=None, use_case="video",
    ):  # fmt: skip
        assert set(main) <= {"size", "format", "stride", "framesize", "preserve_ar"}
        assert set(controls or {}) <= {"FrameRate", "FrameDurationLimits"}
        return {"use_case": use_case, "buffer_count": buffer_count, "main": dict(main)} | {
            "lores": lores, "raw": raw, "controls": controls, "queue": queue
        }  # fmt: skip

    def configure(self, camera_config=None):
        assert not self._started
        main = camera_config["main"]
        if type(main["size"]) is not tuple or len(main["size"]) != 2:
            raise RuntimeError("size in main stream should be (width, height)")
        if main["size"][0] % 2 or main["size"][1] % 2:
            raise RuntimeError("width and height should be even")
        if main["size"][0] > 4608:
            raise RuntimeError("Failed to allocate the buffers")
        assert main["format"] in ("YUV420", "RGB888", "BGR888", "XBGR8888", "XRGB8888")
        stride = -(-main["size"][0] // state.stride) * state.stride
        self._config = camera_config | {"main": main | {"stride": stride}}
        state.seen = self._config

    def camera_configuration(self):
        return self._config

    def start(self, config=None, show_preview=False):
        assert self._config is not None and not self._started
        self._started = True

    def capture_request(self, wait=None, signal_function=None, flush=None):
        assert self._started and wait is False
        job = concurrent.futures.Future()

        def complete():
            if not state.silent.is_set():
                job.set_result(CompletedRequest(self._count, self._config["main"]))

        self._count += 1
        self._timer = threading.Timer(0.02, complete)
        self._timer.start()
        return job

    def wait(self, job, timeout=None):
        return job.result(timeout=timeout)

    def close(self):
        state.taken.discard(self._num)
        if self._started:
            self._timer.cancel()
            self._timer.join()
        self._started = False
