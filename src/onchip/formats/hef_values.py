"""What a Hailo `.hef` file says of its networks, as values."""

from typing import Literal

from msgspec import Struct

PostKind = Literal["yolov5", "yolox", "ssd", "iou", "yolov5_seg", "yolov8", "argmax", "softmax"]

TYPES = {
    1: "uint8",
    2: "uint16",
    3: "float32",
}  # by HailoRT's code; a tensor on the chip has 1 or 2
BOX = 5  # numbers of a box: its sides and its score


class HefTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a network.

    `shape` is height, width, channels; of an NMS result it is classes, 5, boxes per class. `order`
    is what `hailortcli` prints. `original` are the nodes of the ONNX file that became this layer,
    the last one is its end. A value is `(code - zero) * scale`; one scale or zero stands for all
    channels. `low` and `high` are the calibrated range. `stream` names what carries the tensor from
    the chip, where that is another (a mux). `pad` is where a post-process takes it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    order: str
    original: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    network: int = 0
    context: int = 0
    transposed: bool = False
    stream: str = ""
    pad: int | None = None

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the largest value; that of its codes where no range was written."""
        if self.low or self.high:
            return self.low, self.high
        top = {"uint8": 255, "uint16": 65535}.get(self.dtype)
        if top is None or not (self.scales and self.zeros):
            return None
        return -self.zeros[0] * self.scales[0], (top - self.zeros[0]) * self.scales[0]


class HefDecoder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of a detector's head: the tensors it is made of, by name, in Hailo's terms.

    `anchors` are (width, height), in pixels for YOLO and parts of the image for SSD.
    """

    stride: int = 0
    reg: str = ""
    cls: str = ""
    obj: str = ""
    encoded: str = ""
    anchors: tuple[tuple[float, float], ...] = ()


class HefPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What HailoRT does with a network's outputs on the host.

    `most` bounds the boxes of a class, `image` is height and width, `background` the class that is
    left out. With `boxes_only` nothing is suppressed. `scale_factors` and `box_order` are SSD's.
    """

    kind: PostKind
    name: str
    output: str
    inputs: tuple[str, ...] = ()
    classes: int = 0
    most: int = 0
    score: float = 0.0
    iou: float = 0.0
    background: int | None = None
    boxes_only: bool = False
    image: tuple[int, int] = (0, 0)
    decoders: tuple[HefDecoder, ...] = ()
    regression_length: int = 0
    division: int = 0
    scale_factors: tuple[int, int] = (0, 0)
    box_order: tuple[int, int, int, int] = (0, 0, 0, 0)
    mask: float = 0.0
    proto: tuple[int, int, str] | None = None  # count, stride, layer


class HefGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of a file.

    `outputs` are what HailoRT hands over, in its order; `raw` what leaves the chip. `missing` are
    outputs that the file names and does not describe: their description was lost. `bottleneck` is
    how often per second the slowest part of the chip could run, and `latency` (seconds) comes from
    the compiler's simulation; neither counts loading contexts, nor the host. `layouts` are bitmaps
    of clusters, `operations` are counted by the 5.x compilers.
    """

    name: str
    networks: tuple[str, ...]
    contexts: int
    inputs: tuple[HefTensor, ...]
    outputs: tuple[HefTensor, ...]
    raw: tuple[HefTensor, ...]
    post: tuple[HefPost, ...] = ()
    layouts: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    bottleneck: float = 0.0
    latency: float = 0.0
    operations: int = 0
