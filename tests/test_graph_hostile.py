"""Damaged and hostile ONNX files: whatever they hold, one error of onchip's own comes out."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onchip.build import Options, parse
from onchip.errors import InputError, OnchipError, UnsupportedError
from onchip.graph.read import load, read
from onchip.report import inspect

import graphs

Random = np.random.Generator
SECONDS = 10.0
ODD = (0, -1, 1, 2, 3, 7, 100, 1 << 16, 1 << 31, (1 << 63) - 1, -(1 << 63))
KINDS = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 20, 21, 22, 99)


def pick(things: Iterable, random: Random):
    things = list(things)
    return things[random.integers(len(things))] if things else None


def number(random: Random) -> int:
    return ODD[random.integers(len(ODD))]


def node(proto: onnx.ModelProto, random: Random) -> onnx.NodeProto:
    return pick(proto.graph.node, random) or proto.graph.node.add()


def drop_node(proto, random):
    if proto.graph.node:
        del proto.graph.node[random.integers(len(proto.graph.node))]


def double_node(proto, random):
    proto.graph.node.add().CopyFrom(node(proto, random))


def shuffle_nodes(proto, random):
    nodes = list(proto.graph.node)
    order = random.permutation(len(nodes))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[i] for i in order)


def rename_operation(proto, random):
    names = [
        "",
        "Conv",
        "Split",
        "Slice",
        "Concat",
        "Constant",
        "If",
        "Loop",
        "Transpose",
        "Reshape",
    ]
    names += [
        "TopK",
        "Cast",
        "Sigmoid",
        "MatMul",
        "QuantizeLinear",
        "Nothing",
        "Identity",
        "Gather",
    ]
    node(proto, random).op_type = str(random.choice(names))


def change_domain(proto, random):
    node(proto, random).domain = str(random.choice(["", "ai.onnx", "com.microsoft", "x\ny"]))


def drop_end(proto, random):
    ends = pick([e for n in proto.graph.node for e in (n.input, n.output) if e], random)
    if ends:
        del ends[random.integers(len(ends))]


def clear_ends(proto, random):
    one = node(proto, random)
    one.ClearField(str(random.choice(["input", "output", "name", "attribute", "op_type"])))


def tensor_names(proto):
    return [n for one in proto.graph.node for n in (*one.input, *one.output)]


def join_names(proto, random):
    """Give one tensor another's name: cycles, double outputs, dead ends, wrong types."""
    ends = pick([e for n in proto.graph.node for e in (n.input, n.output) if e], random)
    if ends:
        names = [*tensor_names(proto), "", "nothing", "a\nb", "images"]
        ends[random.integers(len(ends))] = str(pick(names, random))


def self_loop(proto, random):
    one = node(proto, random)
    if one.input and one.output:
        one.input[0] = one.output[0]


def more_ends(proto, random):
    one = node(proto, random)
    pick([one.input, one.output], random).append(str(pick([*tensor_names(proto), ""], random)))


def attribute(proto, random):
    return pick([a for n in proto.graph.node for a in n.attribute], random)


def drop_attribute(proto, random):
    one = pick([n for n in proto.graph.node if n.attribute], random)
    if one is not None:
        del one.attribute[random.integers(len(one.attribute))]


def change_attribute(proto, random):
    one = attribute(proto, random)
    if one is None:
        return
    if len(one.ints) and random.integers(2):
        one.ints[random.integers(len(one.ints))] = number(random)
    elif random.integers(2):
        one.i = number(random)
    else:
        one.ints.extend([number(random)] * 3)


def retype_attribute(proto, random):
    one = attribute(proto, random)
    if one is not None:
        one.type = int(random.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 13]))


def rename_attribute(proto, random):
    one = attribute(proto, random)
    if one is not None:
        one.name = str(random.choice(["", "axis", "value", "to", "pads", "body", "value_ints"]))


def add_attribute(proto, random):
    names = ["axis", "group", "strides", "pads", "perm", "to", "keepdims", "dilations", "auto_pad"]
    values = [number(random), [number(random)], 0.5, "x", [0.5], [1, 1], [2, 2, 2, 2]]
    made = helper.make_attribute(str(pick(names, random)), pick(values, random))
    node(proto, random).attribute.append(made)


def add_subgraph(proto, random):
    one = node(proto, random)
    one.op_type = str(random.choice(["If", "Loop", "Scan", one.op_type]))
    name = str(random.choice(["then_branch", "else_branch", "body", "x"]))
    inner = onnx.GraphProto(name="inner")
    inner.node.extend(proto.graph.node[:2])
    inner.output.extend(proto.graph.output)
    made = AttributeProto(name=name, type=AttributeProto.GRAPH, g=inner)
    one.attribute.append(made)


def weight(proto, random) -> TensorProto:
    return pick(proto.graph.initializer, random) or proto.graph.initializer.add()


def drop_weight(proto, random):
    if proto.graph.initializer:
        del proto.graph.initializer[random.integers(len(proto.graph.initializer))]


def double_weight(proto, random):
    proto.graph.initializer.add().CopyFrom(weight(proto, random))


def rename_weight(proto, random):
    weight(proto, random).name = str(pick([*tensor_names(proto), "", "a\nb"], random))


def reshape_weight(proto, random):
    one = weight(proto, random)
    if one.dims and random.integers(3):
        one.dims[random.integers(len(one.dims))] = number(random)
    elif random.integers(2):
        one.dims.append(number(random))
    else:
        del one.dims[:]


def retype_weight(proto, random):
    weight(proto, random).data_type = int(random.choice(KINDS))


def cut_weight(proto, random):
    one = weight(proto, random)
    one.raw_data = one.raw_data[: random.integers(len(one.raw_data) + 1)]


def long_weight(proto, random):
    weight(proto, random).raw_data += bytes(int(random.integers(1, 9)))


def scramble_weight(proto, random):
    one = weight(proto, random)
    one.raw_data = random.bytes(len(one.raw_data))


def two_stores(proto, random):
    weight(proto, random).float_data.extend([1.0, 2.0])


def external_weight(proto, random):
    one = weight(proto, random)
    one.data_location = TensorProto.EXTERNAL
    entry = one.external_data.add()
    entry.key = str(random.choice(["location", "offset", "length", "odd"]))
    paths = ["../../etc/passwd", "/etc/passwd", "", ".", "a\0b", "-1", "x" * 5000, str(1 << 62)]
    entry.value = str(pick(paths, random))


def sparse_weight(proto, random):
    one = proto.graph.sparse_initializer.add()
    one.values.CopyFrom(weight(proto, random))
    one.dims.extend([number(random), 4])
    if random.integers(2):
        one.indices.data_type = TensorProto.INT64
        one.indices.dims.append(number(random))


def value(proto, random):
    graph = proto.graph
    return pick([*graph.input, *graph.output, *graph.value_info], random) or graph.input.add()


def drop_values(proto, random):
    proto.graph.ClearField(str(random.choice(["value_info", "input", "output"])))


def double_value(proto, random):
    pick([proto.graph.input, proto.graph.output], random).add().CopyFrom(value(proto, random))


def rename_value(proto, random):
    value(proto, random).name = str(pick([*tensor_names(proto), "", "a\nb"], random))


def retype_value(proto, random):
    value(proto, random).type.tensor_type.elem_type = int(random.choice(KINDS))


def untyped_value(proto, random):
    one = value(proto, random)
    if random.integers(2):
        one.ClearField("type")
    else:
        one.type.sequence_type.elem_type.tensor_type.elem_type = 1


def reshape_value(proto, random):
    dims = value(proto, random).type.tensor_type.shape.dim
    change = random.integers(4)
    if change == 0 or not len(dims):
        dims.add().dim_value = number(random)
    elif change == 1:
        del dims[random.integers(len(dims))]
    elif change == 2:
        dims[random.integers(len(dims))].dim_param = "n"
    else:
        dims[random.integers(len(dims))].dim_value = number(random)


def image_shape(proto, random):
    dims = proto.graph.input[0].type.tensor_type.shape.dim if proto.graph.input else []
    if len(dims):
        dims[random.integers(len(dims))].dim_value = int(random.choice([*ODD, 32, 4096]))


def opset(proto, random):
    versions = [-1, 0, 1, 5, 7, 8, 9, 10, 11, 12, 13, 18, 21, 99, 1 << 40]
    made = pick(proto.opset_import, random) or proto.opset_import.add()
    made.version = int(pick(versions, random))
    if not random.integers(4):
        made.domain = str(random.choice(["", "ai.onnx", "com.microsoft", "ai.onnx.ml"]))


def more_opsets(proto, random):
    proto.opset_import.add().version = int(random.integers(0, 30))


def ir_version(proto, random):
    proto.ir_version = int(random.choice([0, 1, 3, 4, 8, 13, 99]))


def function(proto, random):
    made = proto.functions.add()
    made.name = str(random.choice(["f", "", "Conv"]))
    made.domain = str(random.choice(["f", "", "ai.onnx"]))
    one = made.node.add()
    one.CopyFrom(node(proto, random))
    if random.integers(2):
        node(proto, random).op_type, one.op_type = made.name, made.name
        node(proto, random).domain, one.domain = made.domain, made.domain


def note(proto, random):
    keys = ["names", "imgsz", "task", "stride", "mean", "std", "pad", "color", "letterbox"]
    texts = [
        "",
        "[",
        "(" * 500,
        "{0: 1}",
        "5",
        "[1, 'x']",
        "None",
        "9" * 6000,
        "\0",
        "-1",
        "[[1], 2]",
    ]
    texts += ["(1e999, 2)", "{(1,): {}}", "{[]: 1}", "pose", "1,2,3", "nan", "²", "a\nb", "True"]
    entry = proto.metadata_props.add()
    entry.key, entry.value = str(pick(keys, random)), str(pick(texts, random))


def half(proto, random):
    for one in proto.graph.initializer:
        if one.data_type == TensorProto.FLOAT and random.integers(2):
            one.data_type = TensorProto.FLOAT16
            one.raw_data = one.raw_data[: len(one.raw_data) // 2]


def quantized(proto, random):
    one = node(proto, random)
    one.op_type = str(random.choice(["QuantizeLinear", "DequantizeLinear", "QLinearConv"]))


CHANGES: list[Callable[[onnx.ModelProto, Random], None]] = [
    drop_node, double_node, shuffle_nodes, rename_operation, change_domain, drop_end, clear_ends,
    join_names, self_loop, more_ends, drop_attribute, change_attribute, retype_attribute,
    rename_attribute, add_attribute, add_subgraph, drop_weight, double_weight, rename_weight,
    reshape_weight, retype_weight, cut_weight, long_weight, scramble_weight, two_stores,
    external_weight, sparse_weight, drop_values, double_value, rename_value, retype_value,
    untyped_value, reshape_value, image_shape, opset, more_opsets, ir_version, function, note,
    half, quantized,
]  # fmt: skip


def flip_bytes(data: bytes, random: Random) -> bytes:
    if not random.integers(4):
        return data[: random.integers(1, len(data))]
    changed = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 6)):
        changed[place] = int(random.integers(256))
    return bytes(changed)


def survive(path: Path) -> list[OnchipError]:
    """Take a file the way the commands do; return how they ended."""
    ends: list[OnchipError] = []
    said: list[str] = []
    started = time.monotonic()
    try:
        said += [str(v["message"]) for v in inspect.model(path, None).data["verdicts"]]  # type: ignore[index, attr-defined]
    except OnchipError as error:
        ends.append(error)
    try:
        parse(path, "cpu")
    except OnchipError as error:
        ends.append(error)
    for text in (*said, *(str(e) for e in ends), *(e.hint for e in ends if e.hint)):
        assert text.strip() and len(text.splitlines()) == 1, repr(text)
    assert time.monotonic() - started < SECONDS
    return ends


def base(name: str, random: Random) -> onnx.ModelProto:
    opset = {"opset": int(random.choice([9, 11, 12, 17]))} if name == "yolov5" else {}
    return graphs.BUILDERS[name](classes=2, width=32, height=32, **opset)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(
    name=st.sampled_from(sorted(graphs.BUILDERS)),
    changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 20),
)
def test_any_changes_end_in_one_line(
    name: str,
    changes: list[Callable[[onnx.ModelProto, Random], None]],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    random = np.random.default_rng(seed)
    proto = base(name, random)
    for change in changes:
        change(proto, random)
    path = tmp_path_factory.mktemp("changed") / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    survive(path)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_each_change_ends_in_one_line(
    change: Callable[[onnx.ModelProto, Random], None], tmp_path: Path
) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        proto = base(str(random.choice(["yolov8", "ssd", "yolo26", "yolov5"])), random)
        change(proto, random)
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        survive(path)


def test_flipped_bytes_end_in_one_line(tmp_path: Path) -> None:
    """In a process of its own: a crash in a library would take this one along."""
    done = subprocess.run(
        [sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""  # results alone belong on stdout


def flip_many(folder: Path, count: int = 100) -> None:
    for seed in range(count):
        random = np.random.default_rng(seed)
        proto = base(str(random.choice(sorted(graphs.BUILDERS))), random)
        path = folder / "flipped.onnx"
        path.write_bytes(flip_bytes(proto.SerializeToString(), random))
        survive(path)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def before(proto: onnx.ModelProto, *nodes: onnx.NodeProto, **weights: object) -> onnx.ModelProto:
    """Put nodes that turn `images` into `seen` before all others."""
    kept = list(proto.graph.node)
    for one in kept:
        for index, name in enumerate(one.input):
            one.input[index] = "seen" if name == "images" else name
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *kept])
    made = (numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    proto.graph.initializer.extend(made)
    return proto


def already_quantized() -> onnx.ModelProto:
    ends = ["scale", "zero"]
    return before(
        graphs.yolov8(),
        helper.make_node("QuantizeLinear", ["images", *ends], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *ends], ["seen"]),
        scale=np.float32(0.1),
        zero=np.uint8(0),
    )


def two_inputs() -> onnx.ModelProto:
    made = graphs.yolov8()
    made.graph.input.append(helper.make_tensor_value_info("size", TensorProto.FLOAT, [1, 2]))
    return made


def whole_numbers() -> onnx.ModelProto:
    made = graphs.yolov8()
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return made


def at_opset(version: int) -> onnx.ModelProto:
    made = graphs.yolov8()
    made.opset_import[0].version = version
    return made


def with_height(height: int) -> onnx.ModelProto:
    made = graphs.yolov8()
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = height
    return made


def huge_inside() -> onnx.ModelProto:
    return before(
        graphs.yolov8(),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["images", "most"], ["seen"]),
        shape=np.array([200000, 200000]),
    )


def list_output() -> onnx.ModelProto:
    made = graphs.yolov8()
    made.graph.node.append(helper.make_node("SequenceConstruct", ["images"], ["list"]))
    made.graph.output.append(
        helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    )
    return made


def calls_itself() -> onnx.ModelProto:
    made = graphs.yolov8()
    again = helper.make_node("F", ["a"], ["b"], domain="own")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made.functions.append(helper.make_function("own", "F", ["a"], ["b"], [again], imports))
    made.opset_import.append(imports[1])
    return before(made, helper.make_node("F", ["images"], ["seen"], domain="own"))


def cycle(opset: int) -> onnx.ModelProto:
    made = graphs.yolov5(opset=opset)
    made.graph.node[3].input[0] = made.graph.node[9].output[0]
    return made


def named(name: bytes) -> onnx.ModelProto:
    data = graphs.yolox().SerializeToString().replace(b"reg_0", name)
    made = onnx.ModelProto()
    made.ParseFromString(data)
    return made


def nothing_but_nan() -> onnx.ModelProto:
    made = graphs.end_to_end(1)
    for one in made.graph.initializer:
        if one.data_type == TensorProto.FLOAT:
            one.raw_data = np.full(len(one.raw_data) // 4, np.nan, np.float32).tobytes()
    return made


@pytest.mark.parametrize(
    ("made", "kind", "text"),
    [
        (already_quantized, UnsupportedError, "quantized already: it has QuantizeLinear, Dequ"),
        (two_inputs, UnsupportedError, r"no single image input.*size\[1, 2\]"),
        (whole_numbers, UnsupportedError, "images is of type int64"),
        (lambda: at_opset(0), InputError, "which version of ONNX's operations"),
        (lambda: at_opset(99), UnsupportedError, "ONNX Runtime does not take"),
        (lambda: at_opset(3), UnsupportedError, "opset 3 and cannot be lifted to 13"),
        (lambda: with_height(-1), InputError, "no fixed height and width"),
        (lambda: with_height(1 << 40), InputError, "96x1099511627776 pixels"),
        (huge_inside, UnsupportedError, r"big is \[200000, 200000\]"),
        (list_output, UnsupportedError, "output list is a seq"),
        (calls_itself, UnsupportedError, "Cycle detected"),
        (lambda: cycle(9), UnsupportedError, "not acyclic"),
        (lambda: cycle(17), UnsupportedError, "not acyclic"),
        (lambda: named(b"\x1b[31m"), InputError, "a name that is no text"),
        (lambda: named(b"\xff\xfe\xfdab"), InputError, "a name that is no text"),
        (nothing_but_nan, InputError, "216 of 216 weights of Conv_0 are NaN"),
    ],
)  # fmt: skip
def test_hostile_models_are_refused(
    made: Callable[[], onnx.ModelProto], kind: type[OnchipError], text: str, tmp_path: Path
) -> None:
    path = saved(made(), tmp_path)
    with pytest.raises(kind, match=text):
        parse(path, "cpu")
    survive(path)


def test_a_branch_that_reads_around_itself_is_cut_whole(tmp_path: Path) -> None:
    def branch(by: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"by_{by}", TensorProto.FLOAT, None)
        mul = helper.make_node("Mul", ["doubled", by], [f"by_{by}"])
        return helper.make_graph([mul], by, [], [value])

    made = before(
        graphs.yolov8(),
        helper.make_node("Add", ["images", "images"], ["doubled"]),
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "one"], ["bright"]),
        helper.make_node(
            "If", ["bright"], ["seen"], then_branch=branch("one"), else_branch=branch("half")
        ),
        one=np.float32(1),
        half=np.float32(0.5),
    )
    assert survive(saved(made, tmp_path)) == []


@pytest.mark.parametrize("place", ["../w.bin", "/etc/hostname", "link", "a\0b", "", ".", "none"])
def test_weights_outside_the_folder_are_not_read(place: str, tmp_path: Path) -> None:
    made = graphs.yolov8()
    weight_ = made.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(weight_.raw_data)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "w.bin")
    weight_.ClearField("raw_data")
    weight_.data_location = TensorProto.EXTERNAL
    weight_.external_data.add(key="location", value=place)
    outside = place in ("../w.bin", "/etc/hostname", "link")
    with pytest.raises(InputError, match="outside its own folder" if outside else "another file"):
        load(saved(made, folder))


def test_a_size_that_contradicts_the_model_is_refused(tmp_path: Path) -> None:
    path = saved(graphs.yolov8(), tmp_path)
    assert read(path, (96, 64)).inputs[0].shape == (1, 3, 64, 96)
    with pytest.raises(InputError, match="fixed to 96x64, but --imgsz says 640x640"):
        parse(path, "cpu", options=Options(size=(640, 640)))
    half = graphs.yolov8()
    half.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    with pytest.raises(InputError, match=r"fixed to \?x64, but --imgsz says 96x32"):
        read(saved(half, tmp_path), (96, 32))
    assert read(path, (96, 64)).inputs[0].shape == (1, 3, 64, 96)


ODD_NOTES = ["", "5", "(" * 500, "-" * 100000 + "1", "1" + "+1" * 50000, "[0x" + "f" * 9000 + "]"]
ODD_NOTES += ["[[1], 2]", "{(1,): {}}", "{[]: 1}", "(1e999, 2)", "[1, 'x']", "[0, 0]", "[-5, 5]"]


@pytest.mark.parametrize("text", ODD_NOTES, ids=range(len(ODD_NOTES)))
def test_odd_notes_do_no_harm(text: str, tmp_path: Path) -> None:
    made = graphs.yolov8(classes=2, width=32, height=32)
    helper.set_model_props(made, {"imgsz": text, "task": text, "stride": text})
    assert survive(saved(made, tmp_path)) == []
    for key in ("names", "mean", "pad"):
        helper.set_model_props(made, {key: text})
        survive(saved(made, tmp_path))


if __name__ == "__main__":
    flip_many(Path(sys.argv[1]))
