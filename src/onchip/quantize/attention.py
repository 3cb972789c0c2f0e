"""Where the network looks: samples count by how sure it is that something is there.

Most of an image is background, and what happens there does not matter for the boxes. Weighting the
statistics by the score of the place where they were taken makes every range fit the objects.
"""

import numpy as np
import numpy.typing as npt

from onchip.graph.run import Array
from onchip.spec import HeadSpec
from onchip.vision.codes import FloatTensors, real
from onchip.vision.decode import Level, levels, scores, sigmoid

BACKGROUND = 0.01  # what a place counts where nothing is seen

Map = npt.NDArray[np.float64]


def attention(head: HeadSpec, tensors: FloatTensors, size: tuple[int, int]) -> Map:
    """Return the best score per cell of the finest grid, `(rows, columns)`.

    Heads without a grid (queries, decoded boxes) look everywhere alike: `(1, 1)`.
    """
    if head.coding in ("query", "xywh"):
        return np.ones((1, 1))
    whole = np.zeros((1, 1))
    for level in levels(head, tensors, size):
        grid = best_scores(level).reshape(-1, level.columns).astype(np.float64)
        whole = np.maximum(*_same_size(whole, grid))
    return whole


def best_scores(level: Level) -> Array:
    """Return the score of the best class of each cell, `(n,)`."""
    if level.head.scoring == "softmax" or level.head.background >= 0 or level.activated:
        return np.asarray(scores(level).max(axis=0))
    best = sigmoid(real(level.classes).max(axis=0))
    return best if level.object is None else best * sigmoid(real(level.object)[0])


def weights(looks: Map, rows: int, columns: int) -> Map:
    """Return the weight of each place of another grid, `(rows * columns,)`: the best inside it."""
    if rows >= looks.shape[0]:
        return _enlarged(looks, rows, columns).ravel() + BACKGROUND
    pooled = np.zeros((rows, columns))
    y = np.arange(looks.shape[0]) * rows // looks.shape[0]
    x = np.arange(looks.shape[1]) * columns // looks.shape[1]
    np.maximum.at(pooled, (y[:, None], x[None, :]), looks)
    return pooled.ravel() + BACKGROUND


def _same_size(first: Map, second: Map) -> tuple[Map, Map]:
    rows, columns = np.maximum(first.shape, second.shape)
    return _enlarged(first, rows, columns), _enlarged(second, rows, columns)


def _enlarged(grid: Map, rows: int, columns: int) -> Map:
    y = np.arange(rows) * grid.shape[0] // rows
    x = np.arange(columns) * grid.shape[1] // columns
    return grid[y[:, None], x[None, :]]
