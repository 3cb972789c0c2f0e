"""Whether something moves, so that the chip looks only then.

A small picture of the luma is held against its running mean. Cells of 4x4 of its pixels that differ
by more than a limit have changed; a few such cells are motion. What changes everywhere by the same
amount is light.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from onchip.watch.config import Motion
from onchip.watch.zones import outside_all

Gray = npt.NDArray[np.uint8]
Grid = npt.NDArray[np.float32]

WIDTH, CELL = 256, 4  # pixels of the small picture's width, and of a cell's side
LEARN = 1.0  # seconds in which the mean takes up two thirds of what is new
SETTLE = 1.5  # seconds in which it is learned quickly, after a jump of the light
JUMP = 0.5  # the part of the cells whose change is no motion but light
HOLD = 2.0  # seconds for which it is looked on after the last motion


class MotionGate:
    """Says of each picture whether something moves in it.

    `sensitivity` from 0 to 1 says how little is enough. At 0 it is a change by 30 of 256 levels of
    gray in 1 % of the picture, at 0.5 one by 12 levels in 0.2 %, and at 1 one by 5 levels in a
    single cell, which is 0.04 %.
    """

    def __init__(self, motion: Motion) -> None:
        self._mask = motion.mask
        self._step = 30.0 * (5 / 30) ** motion.sensitivity
        self._share = 0.01 * (0.0004 / 0.01) ** motion.sensitivity
        self._shape: tuple[int, ...] = ()
        self._counts = np.zeros((0, 0), np.bool_)
        self._mean = np.zeros((0, 0), np.float32)
        self._at = self._settled = 0.0

    def __call__(self, gray: Gray, now: float) -> bool:
        """Return whether something moves in a picture `(H, W)` of `now`, and learn from it."""
        if gray.shape != self._shape:
            self._shape = gray.shape
            self._mean = small(gray)
            high, wide = (side // CELL for side in self._mean.shape)
            self._counts = outside_all(self._mask, wide, high)
            self._at, self._settled = now, now
            return bool(self._counts.any())  # what nobody has seen yet is worth a look
        picture, passed = small(gray), max(0.0, now - self._at)
        self._at = now
        changed = self._changed(picture)
        if now < self._settled:
            self._learn(picture, 0.5)
            return False
        if changed > JUMP:
            self._mean, self._settled = picture, now + SETTLE
            return True
        self._learn(picture, 1 - math.exp(-passed / LEARN))
        return changed > 0 and changed >= self._share

    def _changed(self, picture: Grid) -> float:
        """Return which part of the cells that count has changed."""
        if not self._counts.any():
            return 0.0
        signed = cells(picture - self._mean)
        light = float(np.median(signed[self._counts]))
        if abs(light) > 4 * self._step:
            return 1.0  # by so much at once: a lamp, the sun, the camera's own night sight
        amount = cells(np.abs(picture - self._mean - np.float32(light)))[self._counts]
        noise = float(np.median(amount))
        return float((amount > self._step + 2 * noise).mean())

    def _learn(self, picture: Grid, part: float) -> None:
        cv2.accumulateWeighted(picture, self._mean, part)


def small(gray: Gray) -> Grid:
    """Return a picture about 256 pixels wide, each the mean of what it covers, in whole cells."""
    height, width = gray.shape
    factor = max(1, width // WIDTH)
    wide = max(1, width // factor // CELL) * CELL
    high = max(1, height // factor // CELL) * CELL
    gray = gray[: high * factor, : wide * factor] if height >= CELL and width >= CELL else gray
    return cv2.resize(gray, (wide, high), interpolation=cv2.INTER_AREA).astype(np.float32)


def cells(values: Grid) -> Grid:
    """Return the mean of each cell."""
    high, wide = (side // CELL for side in values.shape)
    return cv2.resize(values, (wide, high), interpolation=cv2.INTER_AREA).astype(np.float32)
