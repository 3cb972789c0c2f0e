"""The protobuf message inside a Hailo `.hef` file: the networks, and where they begin and end.

Field numbers and enums are those of `hef.proto` in HailoRT's public sources, which are the same in
4.x and 5.x but for a few that 5.x added. Where a file can be read in several ways, this reads it as
HailoRT does: a network "flows" through operations if the extension HAILO_NET_FLOW says so, and on
chips built in layouts the layout of the lowest bitmap stands for all.
"""

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from onchip.formats.hef_post import NOTE, PAD_ORDERS, WIDE, Operation, after, operations
from onchip.formats.hef_values import BOX, TYPES, HefGroup, HefPost, HefTensor
from onchip.formats.protobuf import Value, Walk, double, single, text, uint, ulong

NET_FLOW, MULTI_NETWORK = 13, 8  # extensions
MAX_DEPTH = 4  # muxes inside a mux
MAX_NETWORKS = 256  # HailoRT counts them in 8 bits
TENSOR = 1200  # about how many bytes one takes

# The order of a tensor's numbers on the host, by the compiler's code of that on the chip.
_ORDERS = {
    0: "NHWC", 1: "NHWC", 2: "NC", 3: "FCR", 4: "BAYER RGB", 5: "NHW", 6: "HAILO NMS BY CLASS",
    7: "F8CR", 8: "NHWC", 11: "YUY2", 13: "NHWC", 14: "NV12", 15: "NV21", 16: "I420",
}  # fmt: skip
_PLANES = {0: "NV12", 1: "NV21", 2: "I420"}
_ON_CHIP = 6  # NMS by the chip itself


class Features(NamedTuple):
    """How the networks of a file are to be read. A `flow` of None is to be guessed."""

    flow: bool | None
    several: bool
    layouts: bool


class _Ends(NamedTuple):
    """The boundary of a core: what goes in, what comes out, and what several outputs become."""

    inputs: list[HefTensor]
    outputs: list[HefTensor]
    fused: dict[str, HefTensor]  # by the name of the output that is part of it


def group(walk: Walk, view: Value, features: Features) -> HefGroup:
    """Read one network."""
    steps = list(operations(walk, view))
    cores = [o for o in steps if 4 in o.fields]
    flow = bool(cores) if features.flow is None else features.flow
    top = cores[0].fields[4] if flow and cores else view
    layouts = sorted(_layouts(walk, top), key=lambda pair: pair[0]) if features.layouts else []
    core = layouts[0][1] if layouts else top
    about = walk.last(walk.one(core, 1), (3, 4, 6, 8))
    ends = _ends(walk, core, bool(about.get(3)))
    if flow and cores and walk.cut:
        _from_pads(walk, cores[0], ends, _streams(walk, view, core))
    edges = dict(_edges(walk, view))
    later = [o for o in steps if flow and (5 in o.fields or 6 in o.fields)]
    posts = [after(walk, o, ends.outputs, edges) for o in later if walk.keep(TENSOR)]
    outputs, missing = _outputs(ends, posts, _order(walk, view, core, bool(layouts), flow))
    name = _name(walk, view)
    return HefGroup(
        name=name,
        networks=_networks(walk, view, core, name, features),
        contexts=sum(1 for _ in walk.each(core, 3)),
        inputs=tuple(ends.inputs),
        outputs=outputs,
        raw=tuple(ends.outputs),
        post=tuple(post for post, _ in posts),
        layouts=_bitmaps(walk, view, top),
        missing=missing,
        bottleneck=double(about.get(4)),
        latency=double(about.get(6)),
        operations=ulong(about.get(8)),
    )


def _layouts(walk: Walk, core: Value) -> Iterator[tuple[int, Value]]:
    """Yield each layout's bitmap and its own core."""
    for found in walk.each(core, 7):
        fields = walk.last(found, (1, 2))
        if 1 in fields and walk.keep(NOTE):
            yield uint(walk.one(fields.get(2), 1)), fields[1]


def _bitmaps(walk: Walk, *places: Value) -> tuple[int, ...]:
    """The layouts, also those of which only the bitmap is there; a cut one has none."""
    found = {bitmap for place in places for bitmap, _ in _layouts(walk, place)}
    return tuple(sorted(found - {0}))


def _name(walk: Walk, view: Value) -> str:
    """The network's name, as HailoRT takes it: from the first layout, where there are any."""
    first = next(walk.each(view, 7), None)
    inner = view if first is None else walk.one(first, 1)
    return text(walk.one(walk.one(inner, 1), 1))


def _networks(
    walk: Walk, view: Value, core: Value, name: str, features: Features
) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if features.several:
        first = next(walk.each(view, 7), None)
        found = walk.texts(core, 6) or walk.texts(walk.one(first, 1), 6)
    found = (found or (name,))[:MAX_NETWORKS]
    return tuple(f"{name}/{n}" for n in found if walk.keep(WIDE * (len(name) + len(n))))


def _streams(walk: Walk, view: Value, core: Value) -> tuple[str, ...]:
    """The names of the core's own outputs."""
    first = next(walk.each(view, 7), None)
    return walk.texts(core, 4) + walk.texts(walk.one(first, 1), 4)


def _order(walk: Walk, view: Value, core: Value, layouts: bool, flow: bool) -> tuple[str, ...]:
    """The order of the outputs; where it is written changed over the years."""
    fused = walk.one(core, 5)
    if walk.one(fused, 1):
        return walk.texts(fused, 2)
    places = [core, view] if layouts and not flow else [view]
    for place in places:
        if found := walk.texts(place, 4):
            return found
    last = deque(walk.each(core, 3), maxlen=1)
    return walk.texts(walk.one(last[0], 3), 5) if last else ()


# A core's boundary


def _ends(walk: Walk, core: Value, transposed: bool) -> _Ends:
    ends = _Ends([], [], {})
    fused = {
        tensor.name: tensor
        for layer in walk.each(walk.one(core, 5), 3)
        if (tensor := _fused(walk, layer)) and walk.keep(TENSOR)
    }
    for index, context in enumerate(walk.each(core, 3)):
        for edge in walk.each(walk.one(context, 3), 2):
            fields = walk.last(edge, (1, 2, 3, 4, 5, 6, 7, 8))
            if uint(walk.one(fields.get(5), 3)):
                continue  # it passes between contexts, not to the host
            pad = uint(fields[7]) if 7 in fields else None
            place = _Place(uint(fields.get(6)), index, pad, transposed)
            into = ends.outputs if uint(fields.get(1)) else ends.inputs
            into.extend(_boundary(walk, fields, place))
            if fused and into is ends.outputs and into:
                _note_fused(walk, fields.get(3), fused, ends)
    return ends


class _Place(NamedTuple):
    """Where a tensor was found."""

    network: int = 0
    context: int = 0
    pad: int | None = None
    transposed: bool = False


def _boundary(walk: Walk, fields: Mapping[int, Value], place: _Place) -> Iterator[HefTensor]:
    """Yield what an edge layer carries: a layer, a mux's parts, or an image of several planes."""
    kind = uint(fields.get(2))
    if kind == 0:
        yield from _layer(walk, fields.get(3), place)
    elif kind == 1:
        yield from _mux(walk, fields.get(4), place, MAX_DEPTH)
    elif kind == 2:
        yield from _planes(walk, fields.get(8), place)


def _layer(walk: Walk, view: Value | None, place: _Place, stream: str = "") -> Iterator[HefTensor]:
    fields = walk.last(view, (1, 2, 3, 6))
    name = text(fields.get(1))
    if not _room(walk, name):
        return
    base = walk.last(fields.get(2), (1, 3, 5, 7, 11, 12))
    code = uint(base.get(7))
    shape = (uint(base.get(1)), uint(base.get(3)), uint(base.get(5)))
    dtype = TYPES.get(uint(base.get(12)), "")
    turned = place.transposed or bool(fields.get(6))
    if turned and _ORDERS.get(code) != "NC":
        shape = (shape[1], shape[0], shape[2])
    if code == _ON_CHIP:
        shape, dtype = _on_chip(walk, walk.one(base.get(11), 1)), "float32"
    yield _quantized(
        walk,
        fields.get(3),
        HefTensor(
            name=name,
            shape=shape,
            dtype=dtype,
            order=_ORDERS.get(code, f"format {code}"),
            original=walk.texts(view, 5),
            network=place.network,
            context=place.context,
            transposed=turned,
            stream=stream,
            pad=place.pad,
        ),
    )


def _quantized(walk: Walk, numeric: Value | None, tensor: HefTensor) -> HefTensor:
    fields = walk.last(numeric, (1, 2, 3, 4))
    return replace(
        tensor,
        scales=_alike(walk, walk.numbers(numeric, 6, "d")) or (single(fields.get(2)),),
        zeros=_alike(walk, walk.numbers(numeric, 5, "d")) or (single(fields.get(1)),),
        low=single(fields.get(3)),
        high=single(fields.get(4)),
    )


def _alike(walk: Walk, values: Sequence[float]) -> tuple[float, ...]:
    """The values, or only one where all are alike."""
    if values and values.count(values[0]) == len(values):
        return (values[0] + 0.0,)  # which makes 0 of -0
    return tuple(v + 0.0 for v in values) if walk.keep(32 * len(values)) else ()


def _on_chip(walk: Walk, nms: Value | None) -> tuple[int, int, int]:
    fields = walk.last(nms, (2, 3, 7))
    return uint(fields.get(2)), BOX, uint(fields.get(3)) * (uint(fields.get(7)) or 1)


def _mux(walk: Walk, view: Value | None, place: _Place, depth: int) -> Iterator[HefTensor]:
    name = text(walk.one(view, 1))
    if not depth:
        walk.cut = True
        return
    for part in walk.each(view, 5):
        fields = walk.last(part, (1, 2))
        if 2 in fields:
            inner = _mux(walk, fields[2], place, depth - 1)
            yield from (replace(tensor, stream=name) for tensor in inner)
        else:
            yield from _layer(walk, fields.get(1), place, stream=name)


def _planes(walk: Walk, view: Value | None, place: _Place) -> Iterator[HefTensor]:
    """An image whose planes travel apart; HailoRT leaves its type open ("auto")."""
    fields = walk.last(view, (1, 2, 4, 5, 6))
    planes = [
        tensor for plane in walk.each(view, 3) for tensor in _layer(walk, walk.one(plane, 1), place)
    ]
    name = text(fields.get(1))
    if _room(walk, name):
        yield HefTensor(
            name=name,
            shape=(uint(fields.get(4)), uint(fields.get(5)), uint(fields.get(6))),
            dtype="auto",
            order=_PLANES.get(uint(fields.get(2)), ""),
            original=tuple(dict.fromkeys(n for p in planes for n in p.original)),
            network=place.network,
            context=place.context,
            pad=place.pad,
        )


def _fused(walk: Walk, view: Value) -> HefTensor | None:
    """An NMS result that the chip makes in several outputs, by groups of classes."""
    fields = walk.last(view, (1, 3))
    layers = list(_layer(walk, fields.get(1), _Place()))
    if not layers:
        return None
    return replace(layers[0], shape=_on_chip(walk, fields.get(3)), dtype="float32")


def _note_fused(
    walk: Walk, view: Value | None, fused: Mapping[str, HefTensor], ends: _Ends
) -> None:
    """Remember that the last output is only a part of another."""
    nms = walk.one(walk.one(walk.one(view, 2), 11), 1)
    about = walk.last(nms, (5, 6))
    whole = text(walk.one(about.get(6), 3))
    if about.get(5) and whole in fused:
        ends.fused[ends.outputs[-1].name] = fused[whole]


# Pads, operations, and the order of outputs


def _edges(walk: Walk, view: Value) -> Iterator[tuple[int, int]]:
    """Yield pairs of pads: where an operation takes its input, and the core's output there."""
    for edge in walk.each(view, 9):
        if not walk.keep(NOTE):
            return
        fields = walk.last(edge, (1, 2))
        yield uint(fields.get(2)), uint(fields.get(1))


def _from_pads(walk: Walk, core: Operation, ends: _Ends, known: Container[str]) -> None:
    """Add what only the core's pads tell, of a file whose contexts were lost.

    A pad's name is its layer's and a number: "net/conv41_97".
    """
    for number, into in ((2, ends.inputs), (3, ends.outputs)):
        have = {t.pad for t in into} | {t.name for t in into}
        for view in walk.each(core.view, number):
            fields = walk.last(view, (1, 2, 3, 5, 6, 8))
            full = text(fields.get(2))
            short, _, tail = full.rpartition("_")
            name = short if tail.isdigit() and short in known else full
            if uint(fields.get(1)) in have or name in have or not _room(walk, full):
                continue
            into.append(_pad_tensor(walk, fields, name))


def _room(walk: Walk, name: str) -> bool:
    return walk.keep(TENSOR + WIDE * len(name))


def _pad_tensor(walk: Walk, fields: Mapping[int, Value], name: str) -> HefTensor:
    shape = walk.last(fields.get(6), (1, 3, 5))
    tensor = HefTensor(
        name=name,
        shape=(uint(shape.get(1)), uint(shape.get(3)), uint(shape.get(5))),
        dtype=TYPES.get(uint(fields.get(8)), ""),
        order=PAD_ORDERS.get(uint(fields.get(3)), ""),
        pad=uint(fields.get(1)),
    )
    return _quantized(walk, fields.get(5), tensor)


def _outputs(
    ends: _Ends, posts: Sequence[tuple[HefPost, HefTensor]], order: Sequence[str]
) -> tuple[tuple[HefTensor, ...], tuple[str, ...]]:
    """What HailoRT hands over, in its order; and what it would, had nothing been lost."""
    taken = {name for post, _ in posts for name in post.inputs}
    left = [ends.fused.get(t.name, t) for t in ends.outputs if t.name not in taken]
    found = {t.name: t for t in [*left, *(result for _, result in posts)]}
    rank = {name: place for place, name in reversed(list(enumerate(order)))}
    outputs = sorted(found.values(), key=lambda t: rank.get(t.name, len(order)))
    return tuple(outputs), tuple(dict.fromkeys(n for n in order if n not in found))
