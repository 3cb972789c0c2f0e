"""What a network expects, how its head speaks, and what a chip can compute.

Every value here is frozen and is written into the artifact as JSON; an unknown key is an error.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Role = Literal["box", "class", "object", "all"]
Letterboxing = Literal["center", "topleft", "stretch"]
Color = Literal["rgb", "bgr"]
Coding = Literal["dfl", "ltrb", "exp", "anchor", "prior", "query", "xywh", "found"]
Scoring = Literal["class", "object", "softmax"]
Precision = Literal["float32", "float16", "int16"]
Layout = Literal["onchip", "zoo", "frigate"]  # whose outputs a program has


class InputSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network expects of its pixels. Declared once, obeyed everywhere.

    `mean` and `std` are in pixel values (0–255): the network sees `(pixel - mean) / std`.
    With `dtype` "uint8" the program takes the pixels themselves and has absorbed mean and std.
    """

    name: str
    width: int
    height: int
    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"
    color: Color = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    letterbox: Letterboxing = "center"
    pad: int = 114

    @property
    def uniform(self) -> bool:
        """Whether all channels share one scale and no offset, so that a pixel is its own code."""
        return self.mean == (0.0, 0.0, 0.0) and len(set(self.std)) == 1

    @property
    def pixel(self) -> float | None:
        """What one step of a pixel is to the network, where a pixel is its own code."""
        return 1 / self.std[0] if self.uniform else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The tensor's shape, batch 1."""
        if self.layout == "nchw":
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)

    def describe(self) -> str:
        """One line for people.

        >>> InputSpec(name="images", width=640, height=480).describe()
        '640x480 rgb, mean 0, std 255, letterbox center, pad 114'
        """
        pad = f", pad {self.pad}" if self.letterbox != "stretch" else ""
        return (
            f"{self.width}x{self.height} {self.color}, mean {short(self.mean)}, "
            f"std {short(self.std)}, letterbox {self.letterbox}{pad}"
        )


def short(values: Sequence[float]) -> str:
    """`0` for (0, 0, 0); `(1, 2, 3)` for the rest."""
    texts = [f"{v:g}" for v in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


class HeadTensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor (or a slice of its channels) at which the NPU part ends.

    `name` is the tensor, `node` the ONNX node that makes it. The tensor is `(1, C, H, W)`, or
    `(1, Q, C)` for query heads. `role` "all" stacks box, objectness and classes per anchor.
    `activated` says that the sigmoid has already been applied.
    """

    name: str
    node: str
    role: Role
    stride: float
    start: int
    stop: int
    activated: bool = False

    @property
    def channels(self) -> int:
        """How many channels this part has."""
        return self.stop - self.start


class HeadSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How raw head tensors become boxes.

    `coding` says how four numbers (or four distributions) become a box, `scoring` how a class
    score is formed. `anchors` holds (width, height) in pixels, per level, for "anchor" and
    "prior". `offset` is where in its cell a point lies (0.5 is the centre). `variances` scale
    "prior" offsets. `order` is that of the four box values of a "prior" head. "found" is of a
    program that decodes and suppresses by itself: its one tensor is `(1, classes, 5, most)`, with
    top, left, bottom and right as parts of the input, and the score, which is 0 in unused places.
    """

    family: str
    coding: Coding
    scoring: Scoring
    labels: tuple[str, ...]
    tensors: tuple[HeadTensor, ...]
    reg_max: int = 1
    offset: float = 0.5
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    order: Literal["xywh", "yxhw"] = "xywh"
    background: int = -1

    @property
    def classes(self) -> int:
        """How many classes the head tells apart, background left out."""
        return len(self.labels)

    @property
    def strides(self) -> tuple[float, ...]:
        """The pixels per cell of each level, finest first."""
        return tuple(dict.fromkeys(t.stride for t in self.tensors))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The tensors at which the graph is cut, in order, each once."""
        return tuple(dict.fromkeys(t.name for t in self.tensors))

    @property
    def end_nodes(self) -> tuple[str, ...]:
        """The nodes at which the NPU part stops, in order, each once."""
        return tuple(dict.fromkeys(t.node for t in self.tensors))

    def found(self, name: str) -> "HeadSpec":
        """The head of a program that ends in the boxes themselves, in a tensor of that name."""
        last = self.tensors[-1]
        tensor = HeadTensor(
            name=name, node=last.node, role="all", stride=1.0, start=0, stop=self.classes
        )
        return HeadSpec(
            family=self.family,
            coding="found",
            scoring="class",
            labels=self.labels,
            tensors=(tensor,),
        )

    def level(self, stride: float) -> tuple[HeadTensor, ...]:
        """The tensors of one level."""
        return tuple(t for t in self.tensors if t.stride == stride)


class QuantSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chip's arithmetic. Limits are derived from it, never typed by hand.

    `ops` are the ONNX operations that have integer kernels. `shared` are those whose inputs and
    outputs must live on one scale. `fused` are activations that the chip computes together with
    the convolution before them, so that nothing is rounded in between; `fused_depthwise` the same
    for depthwise convolutions. `folded` are operations whose result is never rounded, since the
    chip looks it up together with what reads it (a SiLU's sigmoid). `pair_limit` bounds the
    sum of two neighbouring products; 0 is no bound (see quantize/weights.py). `weight_top` is the
    largest weight code where it is not that of the bits. `barred_zero` is a zero point that the
    compiler misreads. `unit_step` is the scale of every sigmoid's result where the chip leaves no
    choice. `raised` is what a layer can be raised to, best first; nothing is none.
    """

    bits: int = 8
    activation_signed: bool = False
    weight_bits: int = 8
    per_channel: bool = True
    pair_limit: int = 0
    weight_top: int = 0
    barred_zero: int | None = None
    unit_step: float = 0.0
    raised: tuple[Precision, ...] = ("float32",)
    ops: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    fused_depthwise: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()

    @property
    def qmin(self) -> int:
        """The smallest activation code."""
        return -(1 << (self.bits - 1)) if self.activation_signed else 0

    @property
    def qmax(self) -> int:
        """The largest activation code."""
        return self.qmin + (1 << self.bits) - 1

    def with_bits(self, bits: int) -> "QuantSpec":
        """The same arithmetic with codes of other bits; what is fixed is so for the chip's own."""
        if bits == self.bits:
            return self
        return replace(self, bits=bits, barred_zero=None, unit_step=0.0)

    @property
    def weight_min(self) -> int:
        """The smallest weight code; the codes of a sign are as many, so that zero is exact."""
        return 1 - (1 << (self.weight_bits - 1))

    @property
    def weight_max(self) -> int:
        """The largest weight code."""
        return self.weight_top or -self.weight_min


class Cost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a network is: millions of weights, and G operations for an image.

    A multiplication and an addition are an operation each, as vendors count.
    """

    weights: float
    operations: float


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something worth telling the user, with a stable code."""

    code: str
    message: str
    level: Literal["info", "warning", "error"] = "info"
