"""A window that shows what is seen, on a machine with a screen."""

import os
import sys

import cv2
import numpy as np

from onchip.closing import Closing
from onchip.errors import UnsupportedError
from onchip.vision.preprocess import Image

MOST = (1280, 720)  # pixels; larger images are shown smaller


def screen() -> bool:
    """Whether there is a screen to show a window on."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window(Closing):
    """Shows images. `open` turns false once it is closed, by its button, q or Escape.

    Raises:
        UnsupportedError: Python's Tk is missing, or the screen cannot be used.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError as error:
            raise UnsupportedError(
                "a window needs Python's Tk, which is not installed",
                "apt install python3-tk, or use --headless",
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UnsupportedError(f"no window can be opened: {error}", "use --headless") from error
        self._kind = tkinter.PhotoImage
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda event: self._leave())
        self.open = True

    def _leave(self) -> None:
        self.open = False

    def show(self, image: Image) -> None:
        """Show a BGR image until the next."""
        height, width = image.shape[:2]
        scale = min(1.0, MOST[0] / width, MOST[1] / height)
        if scale < 1:
            size = (round(width * scale), round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        _, data = cv2.imencode(".ppm", image)  # which Tk reads by itself
        photo = self._kind(data=data.tobytes())
        self._label.configure(image=photo)
        self._label.image = photo  # type: ignore[attr-defined]  # Tk keeps no reference
        self._root.update()

    def close(self) -> None:
        """Take it away."""
        self._root.destroy()
