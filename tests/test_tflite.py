"""LiteRT: our plan as a .tflite file, node by node and whole, run by LiteRT's own interpreter."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from msgspec.structs import replace
from onnx import TensorProto, helper

from onchip.artifact import Artifact
from onchip.build import Options, build, cut_model, quantized
from onchip.dataset.samples import unlabelled
from onchip.errors import ToolError, UnsupportedError
from onchip.graph.run import Runner
from onchip.targets.target import get
from onchip.targets.tflite.litert import Tflite
from onchip.testing import TargetContract
from onchip.verify import verify
from onchip.vision.codes import Codes, all_real
from onchip.vision.preprocess import find_images, prepare, read_image

import graphs

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")


class TestTflite(TargetContract):
    target = Tflite()

    def test_says_nothing_on_stderr(
        self, tiny: Path, photos: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        made = self.made(tiny, photos)
        with ThreadPoolExecutor(4) as pool:
            for session in pool.map(lambda _: self.target.open(made), range(8)):
                session.close()
        assert capfd.readouterr().err == ""
        print("still there", file=sys.stderr)
        assert capfd.readouterr().err == "still there\n"


def made(proto: onnx.ModelProto, photos: Path, folder: Path, **options: Any) -> Artifact:
    onnx.save(proto, folder / "m.onnx")
    return build(folder / "m.onnx", "tflite", find_images(photos), options=Options(**options))


def table(artifact: Artifact) -> Any:
    """The file as the schema's own tables."""
    return schema.ModelT.InitFromPackedBuf(artifact.payload("program"))


def operators(artifact: Artifact) -> list[str]:
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = table(artifact)
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return [codes[o.opcodeIndex] for o in model.subgraphs[0].operators]


def heads(artifact: Artifact, photo: Path) -> tuple[dict[str, np.ndarray], ...]:
    """The head's tensors of the file, of its plan and of the float network, on a photo."""
    spec, inner = artifact.manifest.input, artifact.manifest.program_input
    assert inner is not None
    image = read_image(photo)
    pixels = replace(spec, dtype="uint8" if spec.uniform else "float32")
    with get("tflite").open(artifact, 1) as session:
        found = dict(all_real(session(prepare(image, inner)[0])))
    planned = Runner(quantized(artifact).bytes, optimize=False)(prepare(image, pixels)[0])
    return found, planned, Runner(cut_model(artifact).bytes)(prepare(image, spec)[0])


def likeness(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return min(float(np.corrcoef(one[k].ravel(), other[k].ravel())[0, 1]) for k in other)


def farthest_alone(artifact: Artifact, photo: Path) -> tuple[int, float, int]:
    """How many codes any node is off by itself, the part of all codes that are, and the tensors.

    Every node is given the very codes that LiteRT gave it, computed in float, and rounded. What
    lies between two codes goes up here and down there, as half of all pixels do with a mean of
    127.5: the part leaves the input out.
    """
    inner = artifact.manifest.program_input
    assert inner is not None
    one = Interpreter(  # it warns that this takes memory
        model_content=artifact.payload("program"), experimental_preserve_all_tensors=True
    )
    one.allocate_tensors()
    one.set_tensor(one.get_input_details()[0]["index"], prepare(read_image(photo), inner)[0])
    one.invoke()
    given = {}
    for details in one.get_tensor_details():
        if details["dtype"] is np.int8 and len(details["shape"]) == 4:
            values = one.get_tensor(details["index"]).transpose(0, 3, 1, 2)
            name = details["name"].removesuffix("/normalized")  # what mean and std make of pixels
            given[name] = np.ascontiguousarray(values)
    proto = quantized(artifact).proto
    made = {name for node in proto.graph.node for name in node.output}
    given = {name: values for name, values in given.items() if f"{name}/codes" in made}
    for node in proto.graph.node:
        name = node.input[0].removesuffix("/codes") if node.input else ""
        if node.op_type == "DequantizeLinear" and name in given:
            node.input[0] = f"{name}/given"
    entry = proto.graph.input[0].name
    infos = [
        (proto.graph.input, "given", given.items()),
        (proto.graph.output, "codes", given.items()),
    ]
    del proto.graph.output[:]
    for place, kind, values in infos:
        for name, array in values:
            info = helper.make_tensor_value_info(f"{name}/{kind}", TensorProto.INT8, array.shape)
            place.append(info)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    spec = artifact.manifest.input
    pixels = replace(spec, dtype="uint8" if spec.uniform else "float32")
    feeds = {f"{name}/given": array for name, array in given.items()}
    feeds[entry] = prepare(read_image(photo), pixels)[0]
    wanted = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    off = [
        np.abs(a.astype(int) - b.astype(int)) for a, b in zip(given.values(), wanted, strict=True)
    ]
    parts = [(o > 0).mean() for name, o in zip(given, off, strict=True) if name != entry]
    return max(int(o.max()) for o in off), float(np.mean(parts)), len(off)


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_every_head_is_what_its_plan_says(name: str, photos: Path, tmp_path: Path) -> None:
    artifact = made(graphs.BUILDERS[name](), photos, tmp_path)
    found, planned, _ = heads(artifact, find_images(photos)[0])
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in planned.items()}
    assert likeness(found, planned) > 0.998
    most, part, count = farthest_alone(artifact, find_images(photos)[0])
    assert most <= 1 and part < 0.01 and count > 3


def test_only_integers_that_every_compiler_reads(tiny: Path, photos: Path) -> None:
    artifact = build(tiny, "tflite", find_images(photos))
    model = table(artifact)
    graph = model.subgraphs[0]
    kinds = {t.type for t in graph.tensors}
    assert kinds == {schema.TensorType.INT8, schema.TensorType.INT32, schema.TensorType.UINT8}
    assert all(t.shapeSignature is None for t in graph.tensors)
    assert len({t.name for t in graph.tensors}) == len(graph.tensors)
    assert "DEQUANTIZE" not in operators(artifact)
    for name, operator in zip(operators(artifact), graph.operators, strict=True):
        made = graph.tensors[operator.outputs[0]].quantization
        if name == "LOGISTIC":
            assert (list(made.scale), list(made.zeroPoint)) == ([1 / 256], [-128])
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            data, weight, bias = (graph.tensors[n] for n in operator.inputs)
            codes = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8)
            assert codes.min() >= -127 and not weight.quantization.zeroPoint.any()
            steps = weight.quantization.scale * data.quantization.scale[0]
            np.testing.assert_allclose(bias.quantization.scale, steps, rtol=1e-6)


def test_weights_stand_where_the_schema_wants_them(tiny: Path, photos: Path) -> None:
    program = build(tiny, "tflite", find_images(photos)).payload("program")
    assert program[4:8] == b"TFL3"
    model = schema.Model.GetRootAs(program, 0)
    places = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            places.append(buffer._tab.Vector(field))
    assert places and not any(place % 16 for place in places)


def test_the_program_gives_codes_under_the_heads_names(tiny: Path, photos: Path) -> None:
    artifact = build(tiny, "tflite", find_images(photos))
    spec = artifact.manifest.program_input
    assert spec is not None and (spec.dtype, spec.layout) == ("uint8", "nhwc")
    with get("tflite").open(artifact) as session:
        found = session(prepare(read_image(find_images(photos)[0]), spec)[0])
    assert set(found) == set(artifact.manifest.head.outputs)
    assert all(isinstance(v, Codes) and v.values.dtype == np.int8 for v in found.values())


def mixed(net: graphs.Net, x: str) -> str:
    """Channels dealt out to two groups, as ShuffleNet does."""
    _, rows, columns = 8, *grids(net)
    x = net.reshape(x, 1, 2, 4, rows, columns)
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return net.reshape(x, 1, 8, rows, columns)


def grids(net: graphs.Net) -> tuple[int, int]:
    return net.height // 4, net.width // 4


def pooled(net: graphs.Net, x: str) -> str:
    fields = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    small = net.op("MaxPool", x, strides=[2, 2], **fields)  # begins beside the map: no "same"
    mean = net.op("AveragePool", x, strides=[2, 2], count_include_pad=1, **fields)
    large = [net.op("Resize", y, "", net.const([1, 1, 2, 2]), mode="linear") for y in (small, mean)]
    return net.op("Concat", *large, axis=1)


def resized(net: graphs.Net, x: str) -> str:
    half = net.op(
        "Resize", x, "", net.const([1, 1, 0.5, 0.5]), mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    )  # fmt: skip
    fields = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net.op("Resize", half, "", net.const([1, 1, 2, 2]), mode="nearest", **fields)


def cut_up(net: graphs.Net, x: str) -> str:
    rows, _ = grids(net)
    ints = [net.const(v, np.int64) for v in ([1, 0], [8, rows], [1, 2], [2, 2])]
    every = net.op("Slice", x, *ints)
    back = net.op("Resize", every, "", net.const([1, 1, 2, 1]), mode="nearest",
                  coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    first, rest = net.split(x, (3, 5), 1)
    return net.op("Concat", back, rest, first, axis=1)


def clipped(net: graphs.Net, x: str) -> str:
    six = net.op("Clip", x, net.const(0.0), net.const(6.0))
    odd = net.op("Clip", x, net.const(-0.25), net.const(0.5))
    leaky = net.op("LeakyRelu", x, alpha=0.1)
    return net.op("Concat", net.op("Add", six, odd), leaky, net.op("Relu", x), axis=1)


def attended(net: graphs.Net, x: str) -> str:
    rows, columns = grids(net)
    flat = net.reshape(x, 1, 2, 4, rows * columns)
    turned = net.op("Transpose", flat, perm=[0, 1, 3, 2])
    scores = net.op("Mul", net.op("MatMul", flat, turned), net.const(0.1))
    seen = net.op("MatMul", net.op("Softmax", scores, axis=-1), flat)
    return net.op("Add", net.reshape(seen, 1, 8, rows, columns), x)


def squeezed(net: graphs.Net, x: str) -> str:
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x), 8, 8))
    return net.op("Mul", x, gate)


def grouped(net: graphs.Net, x: str) -> str:
    deep = net.const(net.random.normal(0, 0.4, (16, 1, 3, 3)))
    fields = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [2, 2, 2, 2]}
    x = net.op("Conv", x, deep, group=8, dilations=[2, 2], **fields)
    two = net.const(net.random.normal(0, 0.4, (8, 8, 1, 1)))
    return net.op("Conv", x, two, group=2, kernel_shape=[1, 1])


def joined(net: graphs.Net, x: str) -> str:
    weight = net.const(net.random.normal(0, 0.4, (8, 8, 2, 2)))
    up = net.op("ConvTranspose", x, weight, kernel_shape=[2, 2], strides=[2, 2])
    return net.op("MaxPool", up, kernel_shape=[2, 2], strides=[2, 2])


BLOCKS: dict[str, tuple[Callable[[graphs.Net, str], str], int, set[str]]] = {
    "shuffle": (mixed, 8, {"TRANSPOSE", "RESHAPE"}),
    "pools": (pooled, 16, {"PADV2", "MAX_POOL_2D", "PAD", "AVERAGE_POOL_2D", "RESIZE_BILINEAR"}),
    "resizes": (resized, 8, {"AVERAGE_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"}),
    "slices": (cut_up, 12, {"STRIDED_SLICE", "SLICE"}),
    "clips": (clipped, 24, {"RELU6", "MINIMUM", "MAXIMUM", "LEAKY_RELU", "RELU"}),
    "attention": (attended, 8, {"BATCH_MATMUL", "SOFTMAX", "DEQUANTIZE"}),
    "squeeze": (squeezed, 8, {"MEAN"}),
    "groups": (grouped, 8, {"DEPTHWISE_CONV_2D"}),
    "transposed": (joined, 8, {"TRANSPOSE_CONV"}),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("whole", [False, True], ids=["integers", "float"])
def test_blocks_of_real_networks(
    name: str, whole: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, channels, wanted = BLOCKS[name]

    def backbone(net: graphs.Net) -> list[str]:
        x = net.silu(net.conv("images", 3, 8, 3, 4))
        x, maps, of = block(net, x), [], channels
        for _ in range(3):
            x, of = net.silu(net.conv(x, of, 8, 3, 2, gain=2.0)), 8
            maps.append(x)
        return maps

    monkeypatch.setattr(graphs.Net, "backbone", backbone)
    every = ("*",) if whole else ()
    artifact = made(graphs.yolov8(), photos, tmp_path, keep_float=every, max_float=0)
    assert wanted <= set(operators(artifact))
    found, planned, real = heads(artifact, find_images(photos)[0])
    assert likeness(found, planned) > 0.999
    assert likeness(found, real) > likeness(planned, real) - 0.001
    graph = table(artifact).subgraphs[0]
    for op, operator in zip(operators(artifact), graph.operators, strict=True):
        if op == "TRANSPOSE":
            assert len(graph.tensors[operator.inputs[0]].shape) == 4


@pytest.mark.parametrize("pixels", [{}, {"mean": (103.5, 116.3, 123.7), "std": (57.4, 57.1, 58.4)}])
@pytest.mark.parametrize("floats", [(), ("Conv_0",)], ids=["integer", "float"])
def test_pixels_go_in_as_they_are(
    pixels: dict[str, Any], floats: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    from onchip.graph.pixels import Pixels

    onnx.save(graphs.yolov8(), tmp_path / "m.onnx")
    given = Pixels(
        color="rgb", letterbox="center", **({"mean": (0, 0, 0), "std": (255,) * 3} | pixels)
    )
    artifact = made(graphs.yolov8(), photos, tmp_path, pixels=given, keep_float=floats)
    assert operators(artifact)[0] == "QUANTIZE"
    assert ("DEQUANTIZE" in operators(artifact)) == bool(floats)
    found, planned, real = heads(artifact, find_images(photos)[0])
    assert likeness(found, planned) > 0.999
    assert likeness(found, real) > 0.99


def test_a_bias_that_its_weights_are_too_small_for(photos: Path, tmp_path: Path) -> None:
    """Channels all but zero: kernels refuse a scale so fine, and the bias would not fit."""
    proto = graphs.yolov8()
    third = [n for n in proto.graph.node if n.op_type == "Conv"][2].input[1]
    weight = next(t for t in proto.graph.initializer if t.name == third)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0], values[1] = 0, 1e-20
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    artifact = made(proto, photos, tmp_path)
    found, planned, _ = heads(artifact, find_images(photos)[0])
    assert likeness(found, planned) > 0.999


def test_what_the_format_cannot_say_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    proto = graphs.yolov8()
    sigmoid = next(n for n in proto.graph.node if n.op_type == "Sigmoid")
    sigmoid.op_type = "Erf"
    with pytest.raises(UnsupportedError, match=rf"{sigmoid.name} \(Erf\): there is no such"):
        made(proto, photos, tmp_path)
    with pytest.raises(UnsupportedError, match="tflite has no layers in int16"):
        made(graphs.yolov8(), photos, tmp_path, int16=("*",))
    with pytest.raises(UnsupportedError, match="Frigate has no detector"):
        made(graphs.yolov8(), photos, tmp_path, layout="frigate")


def test_without_litert(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = build(tiny, "tflite", find_images(photos))
    for name in [n for n in sys.modules if n.startswith("onchip.targets.tflite.")]:
        if not name.endswith("litert"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    for call in (
        lambda: get("tflite").open(artifact),
        lambda: build(tiny, "tflite", find_images(photos)),
    ):
        with pytest.raises(ToolError, match="LiteRT cannot be loaded") as caught:
            call()
        assert "onchip[tflite]" in caught.value.hint


def test_another_input_than_the_files_is_an_error(tiny: Path, photos: Path) -> None:
    artifact = build(tiny, "tflite", find_images(photos))
    with get("tflite").open(artifact) as session, pytest.raises(ToolError, match="LiteRT failed"):
        session(np.zeros((1, 3, 64, 96), np.uint8))


@pytest.mark.data
@pytest.mark.parametrize("name", ["yolov5n", "yolox_nano"])
def test_real_models_see_what_their_plan_does(name: str, data: Path) -> None:
    calibration = find_images(data / "coco" / "images" / "train2017")[::16]
    artifact = build(data / "models" / f"{name}.onnx", "tflite", calibration)
    photos = find_images(data / "coco" / "images" / "val2017")[:4]
    most, part, count = farthest_alone(artifact, photos[3])
    assert most <= 1 and part < 0.01 and count > 170
    found, planned, _ = heads(artifact, photos[3])
    assert likeness(found, planned) > 0.9
    rows = {
        r.stage: r.parity for r in verify(artifact, unlabelled(photos, ()), labelled=False).rows
    }
    assert rows["compiled"].matched > rows["plan"].matched - 0.1
