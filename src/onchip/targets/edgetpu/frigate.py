"""The two outputs that Frigate's edgetpu detector reads of a YOLO, in integers all the way.

Source: Frigate 0.18, frigate/detectors/plugins/edgetpu_tfl.py. It wants the distributions of the
boxes `(1, n, 64)` and the classes before their sigmoid `(1, n, classes)`, over strides 8, 16 and
32, and tells the two by the 64. It asks that the classes be kept within 4 on either side, so that
their steps are fine where scores are neither 0 nor 1.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onchip.errors import UnsupportedError
from onchip.spec import HeadSpec, HeadTensor, InputSpec, Role
from onchip.targets.target import Session
from onchip.targets.tflite import lay
from onchip.targets.tflite.file import Scales
from onchip.targets.tflite.values import CODES, Value, Writer
from onchip.vision.codes import Codes, Tensors, Values

STRIDES = (8.0, 16.0, 32.0)
BINS = 16
BOXES = 4 * BINS
CLAMP = 4.0
OUTPUTS: dict[Role, str] = {"box": "boxes", "class": "classes"}
SERVE = "leave --layout out, and serve it to Frigate's zmq detector: onchip frigate serve"


def check(head: HeadSpec) -> None:
    """Refuse a head that the detector does not read.

    Raises:
        UnsupportedError: the text says why.
    """
    wrong = ""
    if head.coding != "dfl" or head.reg_max != BINS or head.scoring != "class":
        wrong = f"its boxes are those of {head.family}, not distributions of {BINS} bins"
    elif head.strides != STRIDES or head.offset != 0.5:
        wrong = f"its strides are {', '.join(f'{s:g}' for s in head.strides)}"
    elif head.classes in (1, BOXES):
        wrong = f"with {head.classes} classes it cannot tell classes from boxes by their number"
    elif any(t.role not in OUTPUTS or t.activated or t.start for t in head.tensors):
        wrong = "boxes and classes come out of one layer, or after a sigmoid"
    if wrong:
        raise UnsupportedError(
            f"Frigate's edgetpu detector reads YOLOv8's like, at strides 8, 16 and 32: {wrong}",
            SERVE,
        )


def ends(writer: Writer, head: HeadSpec) -> list[int]:
    """Have a file end in the two outputs."""
    return [_joined(writer, _of(head, role), role) for role in OUTPUTS]


def _of(head: HeadSpec, role: Role) -> list[HeadTensor]:
    """The tensors of a role, level by level."""
    return [t for s in STRIDES for t in head.level(s) if t.role == role]


def _joined(writer: Writer, tensors: Sequence[HeadTensor], role: Role) -> int:
    """Join the cells of all levels, which come to one scale first."""
    values = [_cells(writer, writer.values[t.name]) for t in tensors]
    low = min((-128 - v.zero) * v.scale for v in values)
    high = max((127 - v.zero) * v.scale for v in values)
    if role == "class":
        low, high = max(low, -CLAMP), min(high, CLAMP)
    step = float(np.float32((high - low) / 255))
    common = Scales([step], round(-128 - low / step))
    name, order = OUTPUTS[role], (0, 1, 2)
    parts = [_scaled(writer, v, f"{name}/{n}", common) for n, v in enumerate(values)]
    shape = (1, sum(v.shape[1] for v in values), values[0].shape[2])
    made = writer.tensor(name, shape, order, CODES, step, common.zero)
    writer.operator("CONCATENATION", parts, [made], axis=1)
    return made.number


def _cells(writer: Writer, value: Value) -> Value:
    """A map as a list of cells, with the channels of each."""
    _, channels, rows, columns = value.shape
    return writer.laid(value, lay.native(4)).seen_as((1, rows * columns, channels), (0, 1, 2))


def _scaled(writer: Writer, value: Value, name: str, common: Scales) -> Value:
    scale, zero = float(common.scales[0]), common.zero
    if (value.scale, value.zero) == (scale, zero):
        return value
    made = writer.tensor(name, value.shape, value.order, CODES, scale, zero)
    writer.operator("QUANTIZE", [value], [made])
    return made


class Apart(Session):
    """A program with the two outputs, whose levels are handed out as the head has them."""

    def __init__(self, session: Session, head: HeadSpec, spec: InputSpec) -> None:
        self._session, self._head, self._spec = session, head, spec
        self.depth = session.depth

    def __call__(self, tensor: npt.NDArray[np.generic]) -> Tensors:
        """Run one input."""
        found, parts = self._session(tensor), dict[str, Values]()
        for role, name in OUTPUTS.items():
            whole, start = found[name], 0
            for part in _of(self._head, role):
                grid = (int(self._spec.height / part.stride), int(self._spec.width / part.stride))
                stop = start + grid[0] * grid[1]
                parts[part.name] = _map(whole, start, stop, grid)
                start = stop
        return parts

    def close(self) -> None:
        """Give the chip back."""
        self._session.close()


def _map(whole: Values, start: int, stop: int, grid: tuple[int, int]) -> Values:
    if isinstance(whole, Codes):
        part = whole.values[:, start:stop].transpose(0, 2, 1).reshape(1, -1, *grid)
        return Codes(part, whole.scale, whole.zero)
    return whole[:, start:stop].transpose(0, 2, 1).reshape(1, -1, *grid)
