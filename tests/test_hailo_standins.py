"""The stand-ins for Hailo's compiler and runtime: what they take, what they refuse, what they say.

They are the adversary of everything that speaks to Hailo's software, so they must themselves be
held to what is known of it.
"""

import base64
import contextlib
import csv
import gc
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphs
import hailo_wheels

PACKAGES = ("hailo_sdk_client", "hailo_sdk_common", "hailo_model_optimization", "tensorflow",
            "hailo_platform", "hailo_standin")  # fmt: skip
ENDS = [f"/model.22/cv{k}.{i}/cv{k}.{i}.2/Conv" for i in range(3) for k in (2, 3)]
NORMALIZATION = "normalization1 = normalization([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])\n"
USELESS = "(the accuracy won't be optimized and compression won't be used)"
FEW = "there's less data than the recommended amount (1024)"


@pytest.fixture(scope="module")
def standins() -> Iterator[None]:
    """Put the stand-ins where they can be imported, and leave nothing of them behind."""
    card = os.environ.get("CUDA_VISIBLE_DEVICES")
    sys.path.insert(0, str(hailo_wheels.STANDINS))
    with contextlib.chdir("/"):  # no log files beside the tests
        importlib.import_module("hailo_sdk_client")
    yield
    sys.path.remove(str(hailo_wheels.STANDINS))
    for name in [n for n in sys.modules if n.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # which the import set
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card


@pytest.fixture
def here(standins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with no GPU and nothing steered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in [n for n in os.environ if n.startswith("HAILO_STANDIN_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def knob(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def turn(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"HAILO_STANDIN_{name}", str(value))

    return turn


@pytest.fixture
def gpu(knob: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that nobody uses."""
    knob(GPU=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def translated(path: Path, ends: list[str] | None = ENDS, arch: str = "hailo8") -> Any:
    from hailo_sdk_client import ClientRunner

    runner = ClientRunner(hw_arch=arch)
    runner.translate_onnx_model(str(path), "tiny", end_node_names=ends)
    return runner


def pixels(count: int = 6, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (count, 8, 12, 3))
    return np.repeat(np.repeat(small, 8, 1), 8, 2).astype(np.uint8)


def outputs(runner: Any) -> list[str]:
    """The names of the layers before the outputs: boxes and classes in turn."""
    return [x.inputs[0] for x in runner.get_hn_model().get_output_layers()]


def config(runner: Any, folder: Path, **more: Any) -> Path:
    names = outputs(runner)
    decoders = [
        {"name": f"bbox_decoder{i}", "stride": 8 << i, "reg_layer": names[2 * i], "cls_layer": names[2 * i + 1]}
        for i in range(3)
    ]  # fmt: skip
    whole = {
        "nms_scores_th": 0.2, "nms_iou_th": 0.7, "image_dims": [64, 96], "classes": 5,
        "max_proposals_per_class": 100, "regression_length": 16, "background_removal": False,
        "bbox_decoders": decoders,
    }  # fmt: skip
    path = folder / "nms.json"
    path.write_text(json.dumps({k: v for k, v in (whole | more).items() if v is not None}))
    return path


def script(
    runner: Any, folder: Path, *, sigmoid: bool = True, nms: bool = True, **more: Any
) -> str:
    text = NORMALIZATION
    if sigmoid:
        text += "".join(f"change_output_activation({n}, sigmoid)\n" for n in outputs(runner)[1::2])
    if nms:
        text += (
            f'nms_postprocess("{config(runner, folder, **more)}", meta_arch=yolov8, engine=cpu)\n'
        )
    return text


def built(
    path: Path,
    folder: Path,
    *,
    arch: str = "hailo8",
    nms: bool = True,
    level: str = "",
    **more: Any,
) -> bytes:
    """A HEF of the little detector."""
    runner = translated(path, arch=arch)
    flavor = f"model_optimization_flavor(optimization_level={level}, compression_level=0)\n"
    runner.load_model_script(script(runner, folder, nms=nms, **more) + (flavor if level else ""))
    runner.optimize(pixels())
    return runner.compile()


def lines(text: str) -> list[str]:
    """A log without its times."""
    return [re.sub(r"\d\d:\d\d:\d\d\.\d\d", "TIME", line) for line in text.splitlines()]


# The parser


def test_layers_are_numbered_as_the_zoos_scripts_name_them(here: Path, data: Path) -> None:
    runner = translated(data / "models" / "yolov8n.onnx")
    assert outputs(runner) == [f"tiny/conv{n}" for n in (41, 42, 52, 53, 62, 63)]
    ends = [f"/model.24/m.{i}/Conv" for i in range(3)]
    runner = translated(data / "models" / "yolov5n.onnx", ends)
    assert outputs(runner) == ["tiny/conv47", "tiny/conv54", "tiny/conv60"]


def test_a_decoder_is_refused_with_the_end_nodes_before_it(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hailo_sdk_client.model_translator.exceptions import ParsingWithRecommendationException

    with pytest.raises(ParsingWithRecommendationException) as caught:
        translated(data / "models" / "yolov8n.onnx", None)
    assert str(caught.value) == (
        "Parsing failed. The errors found in the graph are:\n"
        " UnsupportedShuffleLayerError in op /model.22/dfl/Reshape: Failed to determine type of "
        "layer to create in node /model.22/dfl/Reshape\n"
        "Please try to parse the model again, using these end node names: "
        "/model.22/Concat, /model.22/Sigmoid"
    )
    said = capsys.readouterr().out
    assert "[info] NMS structure of yolov8 (or equivalent architecture) was detected.\n" in said
    assert f"these end node names should be used: {' '.join(ENDS)}.\n" in said


def test_parsing_says_what_it_maps(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    translated(tiny)
    assert lines(capsys.readouterr().out) == [
        "[info] Translation started on ONNX model tiny",
        "[info] Restored ONNX model tiny (completion time: TIME)",
        "[info] Extracted ONNXRuntime meta-data for Hailo model (completion time: TIME)",
        "[info] NMS structure of yolov8 (or equivalent architecture) was detected.",
        f"[info] In order to use HailoRT post-processing capabilities, these end node names should be used: {' '.join(ENDS)}.",
        "[info] Start nodes mapped from original model: 'images': 'tiny/input_layer1'.",
        f"[info] End nodes mapped from original model: {', '.join(repr(e) for e in ENDS)}.",
        "[info] Translation completed on ONNX model tiny (completion time: TIME)",
    ]


@pytest.mark.parametrize(
    ("family", "kind"),
    [("yolov8", "yolov8"), ("yolov5", "yolov5"), ("yolov6", "yolov6"), ("yolox", "yolox"),
     ("nanodet", ""), ("ssd", "")],
)  # fmt: skip
def test_heads_that_the_runtime_decodes_are_seen(here: Path, family: str, kind: str) -> None:
    from hailo_standin import parse

    onnx.save(getattr(graphs, family)(), here / "model.onnx")
    found = parse.structure(parse._loaded(str(here / "model.onnx"), None))
    assert (found.kind if found else "") == kind


def test_layers_speak_of_their_nodes(here: Path, tiny: Path) -> None:
    from hailo_sdk_common.hailo_nn.exceptions import HailoNNException
    from hailo_sdk_common.hailo_nn.hn_definitions import ActivationTypes, LayerType

    runner = translated(tiny)
    model = runner.get_hn_model()
    last = model.get_layer_by_name(outputs(runner)[1])
    assert last.original_names == [ENDS[1]] and last.activation == ActivationTypes.linear
    assert last.op == LayerType.base_conv and last.scope == "tiny"
    assert model.get_input_shapes() == [[-1, 64, 96, 3]]
    assert [x.output_shape for x in model.get_real_output_layers()] == [
        [-1, 64 // s, 96 // s, c] for s in (8, 16, 32) for c in (64, 5)
    ]
    with pytest.raises(HailoNNException, match="The layer named conv99 doesn't exist in the HN"):
        model.get_layer_by_name("conv99")
    layers, weights = runner.get_hn()["layers"], runner.get_params()
    kernel = weights[f"{last.name}/kernel:0"]
    assert list(kernel.shape) == layers[last.name]["params"]["kernel_shape"]
    assert kernel.shape[-1] == 5  # rows, columns, inputs, outputs


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"end_node_names": ["/model.22/nothing"]}, "MisspellNodeError", "Unable to find end node names"),
        ({"end_node_names": ["end_output0"], "start_node_names": ["pictures"]}, "MisspellNodeError", "start node"),
        ({"end_node_names": "end_output0"}, "InvalidArgumentsException", "list of str"),
        ({"net_name": "my-net"}, "InvalidArgumentsException", "my-net"),
        ({"net_input_shapes": {"images": [1, 64, 96, 3]}}, "UnsupportedModelError", "no .1, 3, H, W."),
        ({"net_input_shapes": {"x": [1, 3, 64, 96]}}, "UnsupportedModelError", "not images"),
        ({"disable_onnx_simplifier": True}, "TypeError", "disable_onnx_simplifier"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_the_parser(
    here: Path, tiny: Path, arguments: dict[str, Any], error: str, text: str
) -> None:
    from hailo_sdk_client import ClientRunner

    given = {"net_name": "tiny", "end_node_names": ENDS} | arguments
    with pytest.raises(Exception, match=text) as caught:
        ClientRunner(hw_arch="hailo8").translate_onnx_model(str(tiny), **given)
    assert type(caught.value).__name__ == error


def test_the_parser_takes_paths_as_text_and_nodes_not_tensors(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import ClientRunner
    from hailo_sdk_client.model_translator.exceptions import MisspellNodeError

    with pytest.raises(TypeError, match="expected str"):
        ClientRunner(hw_arch="hailo8").translate_onnx_model(tiny, "tiny", end_node_names=ENDS)
    proto = onnx.load(tiny)
    tensor = next(n.output[0] for n in proto.graph.node if n.name == ENDS[0])
    assert tensor != ENDS[0]
    with pytest.raises(MisspellNodeError):
        translated(tiny, [tensor])


def test_a_convolution_must_say_its_kernels_shape(here: Path, tiny: Path) -> None:
    proto = onnx.load(tiny)
    for node in proto.graph.node:
        kept = [a for a in node.attribute if a.name != "kernel_shape"]
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(proto, here / "bare.onnx")
    with pytest.raises(IndexError):
        translated(here / "bare.onnx")


def test_a_network_without_a_size_needs_one(here: Path) -> None:
    from hailo_sdk_client import ClientRunner

    proto = graphs.yolov8()
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "x"
    onnx.save(proto, here / "model.onnx")
    path = str(here / "model.onnx")
    with pytest.raises(Exception, match="Dynamic shapes"):
        ClientRunner(hw_arch="hailo8").translate_onnx_model(path, "tiny", end_node_names=ENDS)
    runner = ClientRunner(hw_arch="hailo8")
    shapes = {"images": [1, 3, 64, 96]}
    runner.translate_onnx_model(path, "tiny", end_node_names=ENDS, net_input_shapes=shapes)
    assert runner.get_hn_model().get_input_shapes() == [[-1, 64, 96, 3]]


def test_only_known_chips(here: Path, knob: Callable[..., None]) -> None:
    from hailo_sdk_client import ClientRunner
    from hailo_sdk_client.runner.client_runner import InvalidArgumentsException

    for arch in ("hailo8", "hailo8l", "hailo8r"):
        assert ClientRunner(hw_arch=arch).hw_arch == arch
    for arch in ("hailo10h", "HAILO8", "8l"):
        with pytest.raises(InvalidArgumentsException):
            ClientRunner(hw_arch=arch)
    with pytest.raises(TypeError):
        ClientRunner("hailo8")  # type: ignore[misc]


# Model scripts


@pytest.mark.parametrize(
    "line",
    [
        "# only said",
        "normalization1 = normalization([0, 0, 0], [255, 255, 255], input_layer1)",
        "input_conversion = input_conversion(bgr_to_rgb)",
        "reshape_rgb = input_conversion(tiny/input_layer1, bgr_to_rgb, emulator_support=True)",
        "change_output_activation(sigmoid)",
        "model_optimization_flavor(optimization_level=2, compression_level=0, batch_size=4)",
        "model_optimization_flavor(optimization_level=-100)",
        "model_optimization_config(calibration, batch_size=2, calibset_size=32)",
        "model_optimization_config(checker_cfg, policy=disabled)",
        "post_quantization_optimization(finetune, policy=enabled, learning_rate=1e-5, dataset_size=64,\n"
        "    epochs=2, loss_types=[l2rel, ce], loss_layer_names=[conv1, conv2], loss_factors=[1, 2.0])",
        "post_quantization_optimization(bias_correction, policy=enabled)",
        "pre_quantization_optimization(activation_clipping, layers={*}, mode=percentile, clipping_values=[0.01, 99.7])",
        "quantization_param([conv1, tiny/conv2], precision_mode=a8_w4)",
        "quantization_param({conv*}, precision_mode=a16_w16)",
        "quantization_param(output_layer1, precision_mode=a16_w16)",
        "performance_param(compiler_optimization_level=max)",
        "resources_param(strategy=greedy, max_control_utilization=0.8)",
        "context_switch_param(mode=disabled)",
        "allocator_param(timeout=25m)",
        "set_seed(seed=7)",
    ],
)
def test_scripts_as_people_write_them(here: Path, tiny: Path, line: str) -> None:
    runner = translated(tiny)
    runner.load_model_script(line)
    assert runner.model_script == line


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("normalization([0, 0, 0], [255, 255, 255])", "BackendScriptParserException", "Parsing failed at"),
        ("normalization1 = normalization([0], [255])", "AllocatorScriptParserException", "each channel"),
        ("normalization1 = normalization([0, 0, 0], [255, 0, 255])", "AllocatorScriptParserException", "each channel"),
        ("conv1 = normalization([0, 0, 0], [255, 255, 255])", "AllocatorScriptParserException", "conv1"),
        ("change_output_activation(conv99, sigmoid)", "HailoNNException", "The layer named conv99 doesn't exist"),
        ("change_output_activation(conv1, sigmoid)", "AllocatorScriptParserException", "before an output"),
        ("change_output_activation(output_layer1, sigmoid)", "AllocatorScriptParserException", "before an output"),
        ("change_output_activation(sigmoidal)", "BackendScriptParserException", "Parsing failed at"),
        ("model_optimization_config(optimization_level=0)", "BackendScriptParserException", "Parsing failed at"),
        ("model_optimization_config(bias_correction, policy=enabled)", "BackendScriptParserException",
         "'bias_correction' is not a valid MOConfigCommand. Model script parsing failed"),
        ("model_optimization_config(calibration, calibset=64)", "BackendScriptParserException", "No argument named calibset"),
        ("model_optimization_config(calibration, calibset_size=many)", "BackendScriptParserException", "not a valid value"),
        ("model_optimization_flavor(optimization_level=5)", "BackendScriptParserException", "not a valid value"),
        ("model_optimization_flavor(2)", "BackendScriptParserException", "Parsing failed at"),
        ("quantization_param(conv77, precision_mode=a8_w8)", "HailoNNException", "conv77"),
        ("quantization_param({deconv*}, precision_mode=a8_w8)", "HailoNNException", "deconv"),
        ("quantization_param(conv1, precision_mode=a32_w32)", "BackendScriptParserException", "not a valid value"),
        ("quantization_param(other/conv1, precision_mode=a8_w8)", "HailoNNException", "other/conv1"),
        ("enable_loose_mode()", "BackendScriptParserException", "Unknown command"),
        ("import os", "BackendScriptParserException", "Parsing failed at"),
        ("set_seed(seed=7", "BackendScriptParserException", "Parsing failed at"),
        ("set_seed(seed=7, seed=8)", "BackendScriptParserException", "Parsing failed at"),
        ("no_such_file.alls", "BackendScriptParserException", "Parsing failed at"),
        ('nms_postprocess("nowhere.json", meta_arch=yolov8, engine=cpu)', "AllocatorScriptParserException",
         "Post-process config file isn't found in"),
        ("nms_postprocess(meta_arch=yolov8, engine=nn_core)", "UnsupportedMetaArchError",
         "The specified meta architecture yolov8 cannot be run on chip"),
        ("nms_postprocess(meta_arch=yolov5, engine=cpu)", "AllocatorScriptParserException",
         "Cannot infer bbox conv layers automatically"),
    ],
)  # fmt: skip
def test_scripts_that_are_wrong(here: Path, tiny: Path, line: str, error: str, text: str) -> None:
    runner = translated(tiny)
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        runner.load_model_script(line)
    assert type(caught.value).__name__ == error
    assert runner.model_script == ""


def test_a_script_replaces_the_one_before(here: Path, tiny: Path) -> None:
    runner = translated(tiny)
    runner.load_model_script(NORMALIZATION)
    runner.load_model_script("set_seed(seed=1)")
    assert "normalization" not in runner.model_script
    runner.load_model_script(NORMALIZATION, append=True)
    assert runner.model_script == f"set_seed(seed=1)\n{NORMALIZATION}"
    assert list(runner.modifications_meta_data.inputs) == ["tiny/input_layer1"]


def test_a_scripts_paths_are_its_own_folders(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = translated(tiny)
    folder = here / "scripts"
    folder.mkdir()
    config(runner, folder)
    path = folder / "tiny.alls"
    path.write_text('nms_postprocess("nms.json", yolov8, engine=cpu)\n')
    runner.load_model_script(path)
    assert f'"{folder / "nms.json"}"' in runner.model_script
    said = capsys.readouterr().out
    assert f"[info] Loading model script commands to tiny from {path}\n" in said


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"classes": None}, "NMSConfigPostprocessException", "lacks ['classes']"),
        (
            {"regression_length": None},
            "NMSConfigPostprocessException",
            "lacks ['regression_length']",
        ),
        ({"threshold": 0.5}, "NMSConfigPostprocessException", "unknown ['threshold']"),
        ({"bbox_decoders": []}, "NMSConfigPostprocessException", "the network ends in"),
    ],
)
def test_a_post_process_that_is_wrong(
    here: Path, tiny: Path, change: dict[str, Any], error: str, text: str
) -> None:
    runner = translated(tiny)
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        runner.load_model_script(script(runner, here, **change))
    assert type(caught.value).__name__ == error


def test_a_post_process_of_the_wrong_layers(here: Path, tiny: Path) -> None:
    from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import AllocatorScriptParserException
    from hailo_sdk_client.tools.core_postprocess.nms_postprocess import (
        NMSConfigPostprocessException,
    )

    runner = translated(tiny)
    decoders = json.loads(config(runner, here).read_text())["bbox_decoders"]
    decoders[0]["reg_layer"] = "conv1"
    with pytest.raises(NMSConfigPostprocessException, match="tiny/conv1 doesn't have one output"):
        runner.load_model_script(script(runner, here, bbox_decoders=decoders))
    decoders[0]["reg_layer"] = "output_layer1"
    with pytest.raises(
        AllocatorScriptParserException, match="expected conv but found output_layer"
    ):
        runner.load_model_script(script(runner, here, bbox_decoders=decoders))


def test_a_post_process_is_found_where_the_cut_is_the_recommended_one(
    here: Path, tiny: Path
) -> None:
    runner = translated(tiny)
    runner.load_model_script("nms_postprocess(meta_arch=yolov8, engine=cpu, classes=5)")
    with pytest.raises(Exception, match="Cannot infer"):
        translated(tiny, ENDS[::-1]).load_model_script("nms_postprocess(meta_arch=yolov8)")


# Optimization


def test_steps_out_of_order(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import ClientRunner, InferenceContext, States
    from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendRuntimeException
    from hailo_sdk_common.states.states import InvalidStateException

    runner = ClientRunner(hw_arch="hailo8")
    assert runner.state == States.UNINITIALIZED
    for step in (runner.get_hn, lambda: runner.load_model_script("set_seed(seed=1)"),
                 lambda: runner.optimize(pixels())):  # fmt: skip
        with pytest.raises(InvalidStateException):
            step()
    runner = translated(tiny)
    assert runner.state == States.HAILO_MODEL
    with pytest.raises(BackendRuntimeException, match=r"Did you forget to quantize\?"):
        runner.compile()
    for context in (InferenceContext.SDK_FP_OPTIMIZED, InferenceContext.SDK_QUANTIZED):
        with pytest.raises(InvalidStateException), runner.infer_context(context):
            pass
    runner.optimize_full_precision()
    assert runner.state == States.FP_OPTIMIZED_MODEL
    runner.optimize(pixels())
    assert runner.state == States.QUANTIZED_MODEL
    with pytest.raises(InvalidStateException):
        runner.optimize(pixels())
    assert runner.compile() == runner.hef
    assert runner.state == States.COMPILED_MODEL


@pytest.mark.parametrize(
    "kind", ["array", "float", "double", "dict", "file", "folder", "function", "dataset"]
)
def test_calibration_data_in_every_form(here: Path, tiny: Path, kind: str) -> None:
    import tensorflow as tf

    images, runner = pixels(3), translated(tiny)

    def frames() -> Iterator[Any]:
        for image in images:
            yield image, {"name": "any"}

    kept = {"name": tf.TensorSpec((), np.dtype("<U3"))}
    spec = (tf.TensorSpec(shape=(64, 96, 3), dtype=tf.uint8), kept)
    np.save(here / "all.npy", images)
    (here / "each").mkdir()
    for number, image in enumerate(images):
        np.save(here / "each" / f"{number}.npy", image)
    given: Any = {
        "array": images,
        "float": images.astype(np.float32),
        "double": images.astype(np.float64),
        "dict": {"tiny/input_layer1": images},
        "file": str(here / "all.npy"),
        "folder": str(here / "each"),
        "function": lambda: tf.data.Dataset.from_generator(frames, output_signature=spec),
        "dataset": tf.data.Dataset.from_generator(frames, output_signature=spec),
    }[kind]
    runner.load_model_script(NORMALIZATION)
    runner.optimize(given)
    assert answers(runner, images) == answers_of_array(tiny, images)


def answers(runner: Any, images: np.ndarray, context: str = "SDK_QUANTIZED") -> list[bytes]:
    from hailo_sdk_client import InferenceContext

    with runner.infer_context(InferenceContext[context]) as place:
        return [a.tobytes() for a in runner.infer(place, images)]


def answers_of_array(path: Path, images: np.ndarray) -> list[bytes]:
    runner = translated(path)
    runner.load_model_script(NORMALIZATION)
    runner.optimize(images)
    return answers(runner, images)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (lambda: pixels().transpose(0, 3, 1, 2), "BadInputsShape",
         "Data shape (3, 64, 96) for layer tiny/input_layer1 doesn't match network's input shape (64, 96, 3)"),
        (lambda: pixels()[:, :32], "BadInputsShape", "(32, 96, 3)"),
        (lambda: pixels()[0], "AccelerasValueError", "not (N, H, W, C)"),
        (lambda: list(pixels()), "AccelerasValueError", "list"),
        (lambda: pixels().astype(np.int64), "AccelerasValueError", "int64"),
        (lambda: pixels()[:0], "AccelerasValueError", "empty"),
        (lambda: {"input_layer1": pixels()}, "AccelerasValueError", "input_layer1"),
        (lambda: "photos/", "AccelerasValueError", "photos"),
        (lambda: lambda: pixels(), "AccelerasValueError", "returned a ndarray"),
    ],
)  # fmt: skip
def test_calibration_data_that_is_wrong(
    here: Path, tiny: Path, given: Callable[[], Any], error: str, text: str
) -> None:
    runner = translated(tiny)
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        runner.optimize(given())
    assert type(caught.value).__name__ == error


def test_a_dataset_is_of_single_frames_with_their_info(here: Path, tiny: Path) -> None:
    import tensorflow as tf

    whole = tf.TensorSpec((None, 64, 96, 3), tf.uint8)
    frame = tf.TensorSpec((64, 96, 3), tf.uint8)
    make = tf.data.Dataset.from_generator
    for dataset in (
        make(lambda: iter([pixels(2)[0]]), output_signature=frame),
        make(lambda: iter([(pixels(2), {})]), output_signature=(whole, {})),
        make(lambda: iter([(pixels(2), {})]), output_signature=(frame, {})),
    ):
        with pytest.raises(Exception, match=r"image, info|shape"):
            translated(tiny).optimize(dataset)
    with pytest.raises(TypeError, match="callable"):
        make(iter([]), output_signature=frame)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="output_signature"):
        make(lambda: iter([]), output_signature=(frame, None))


def test_no_more_arguments_than_are_known(here: Path, tiny: Path) -> None:
    for extra in ("optimization_level", "batch_size", "calibset_size"):
        with pytest.raises(TypeError):
            translated(tiny).optimize(pixels(), **{extra: 2})


@pytest.mark.parametrize(
    ("count", "calibset", "used"),
    [(3, "", 3), (70, "", 64), (70, 8, 8), (70, 70, 70), (3, 64, None)],
)
def test_how_many_frames_calibrate(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str], count: int, calibset: Any, used: int
) -> None:
    runner = translated(tiny)
    line = f"model_optimization_config(calibration, calibset_size={calibset})\n" if calibset else ""
    runner.load_model_script(NORMALIZATION + line)
    if used is None:
        with pytest.raises(Exception, match="calibset_size=64 is larger than the dataset"):
            runner.optimize(pixels(count))
        return
    runner.optimize(pixels(count))
    assert f"[info] Using dataset with {used} entries for calibration\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entries", "card", "level", "said"),
    [
        (1023, False, "", f"[warning] Reducing optimization level to 0 {USELESS} because {FEW}, and there's no available GPU"),
        (1024, False, "", f"[warning] Reducing optimization level to 0 {USELESS} because there's no available GPU"),
        (1023, True, "", f"[warning] Reducing optimization level to 1 {USELESS} because {FEW}"),
        (1024, True, "", "[info] Using default optimization level of 2"),
        (8, False, "2", ""),  # what the script names is kept
        (8, True, "4", ""),
    ],
)  # fmt: skip
def test_levels_are_reduced(
    here: Path,
    tiny: Path,
    knob: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    entries: int,
    card: bool,
    level: str,
    said: str,
) -> None:
    if card:
        knob(GPU=0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    runner = translated(tiny)
    flavor = f"model_optimization_flavor(optimization_level={level})\n" if level else ""
    runner.load_model_script(
        f"{NORMALIZATION}model_optimization_config(calibration, calibset_size=8)\n{flavor}"
    )
    capsys.readouterr()
    runner.optimize(np.broadcast_to(pixels(1), (entries, 64, 96, 3)))
    log = lines(capsys.readouterr().out)
    found = [x for x in log if "optimization level" in x and "compression" not in x.split("(")[0]]
    assert found == ([said] if said else [])
    low = "to 0" in said or "to 1" in said
    assert (
        "[warning] Reducing compression level to 0 because requested optimization level equal or less than 1"
        in log
    ) == low
    assert any("zero level of optimization is not recommended" in x for x in log) == (
        "to 0" in said
    )


def test_a_level_can_be_reduced_whatever_was_asked(
    here: Path, tiny: Path, knob: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    knob(REDUCE="always")
    built(tiny, here, level="2")
    assert "Reducing optimization level to 0" in capsys.readouterr().out


NEW = """\
Found model with 3 input channels, using real RGB images for calibration instead of sampling random data.
Starting Model Optimization
Model received quantization params from the hn
MatmulDecompose skipped
Starting Mixed Precision
Model Optimization Algorithm Mixed Precision is done (completion time is TIME)
LayerNorm Decomposition skipped
Starting Statistics Collector
Using dataset with 6 entries for calibration
Model Optimization Algorithm Statistics Collector is done (completion time is TIME)
Starting Fix zp_comp Encoding
Model Optimization Algorithm Fix zp_comp Encoding is done (completion time is TIME)
Matmul Equalization skipped
Starting MatmulDecomposeFix
Model Optimization Algorithm MatmulDecomposeFix is done (completion time is TIME)
Finetune encoding skipped
Bias Correction skipped
Adaround skipped
Starting Quantization-Aware Fine-Tuning
Using dataset with 4 entries for finetune
Model Optimization Algorithm Quantization-Aware Fine-Tuning is done (completion time is TIME)
Layer Noise Analysis skipped
Model Optimization is done"""
OLD = """\
Starting Model Optimization
Model received quantization params from the hn
Starting Mixed Precision
Mixed Precision is done (completion time is TIME)
Layer Norm Decomposition skipped
Starting Stats Collector
Using dataset with 6 entries for calibration
Stats Collector is done (completion time is TIME)
Starting Fix zp_comp Encoding
Fix zp_comp Encoding is done (completion time is TIME)
matmul_equalization skipped
Finetune encoding skipped
Bias Correction skipped
Adaround skipped
Fine Tune skipped
Layer Noise Analysis skipped
Model Optimization is done"""


@pytest.mark.parametrize(("version", "wanted"), [("3.33.1", NEW), ("3.28.0", OLD)])
def test_the_algorithms_take_their_turns(
    here: Path,
    tiny: Path,
    knob: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    version: str,
    wanted: str,
) -> None:
    knob(DFC=version)
    runner = translated(tiny)
    tune = "post_quantization_optimization(finetune, policy=enabled, dataset_size=4, epochs=2)\n"
    runner.load_model_script(NORMALIZATION + (tune if version == "3.33.1" else "")
                             + "model_optimization_flavor(optimization_level=0, compression_level=0)\n")  # fmt: skip
    capsys.readouterr()
    runner.optimize(pixels())
    log = lines(capsys.readouterr().out)
    assert [x.removeprefix("[info] ") for x in log if x.startswith("[info]")] == wanted.splitlines()
    losses = [x for x in log if "total_distill_loss" in x]
    assert len(losses) == (2 if version == "3.33.1" else 0)


def test_a_finetune_of_more_frames_than_there_are(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = translated(tiny)
    tune = "post_quantization_optimization(finetune, policy=enabled, dataset_size=1024, epochs=1)"
    runner.load_model_script(NORMALIZATION + tune)
    runner.optimize(pixels())
    said = capsys.readouterr().out
    assert (
        "[warning] Quantization-Aware Fine-Tuning: Dataset didn't have enough data for dataset_size of 1024\n"
        in said
    )
    assert "[info] Using dataset with 6 entries for finetune\n" in said


def test_noise_is_measured_and_said_but_stops_nothing(
    here: Path, tiny: Path, knob: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    knob(SNR="0.0004649")
    runner = translated(tiny)
    flavor = "model_optimization_flavor(optimization_level=2, compression_level=0)\n"
    runner.load_model_script(NORMALIZATION + flavor)
    runner.optimize(pixels())
    said = capsys.readouterr().out
    assert (
        "[info] Output layers signal-to-noise ratio (SNR): measures the quantization noise (higher is better)\n"
        in said
    )
    assert "[info] \ttiny/output_layer1 SNR:\t0.0004649 dB\n" in said
    assert runner.analyze_noise(pixels()) is None
    runner.compile()


def noise(runner: Any, images: np.ndarray) -> list[float]:
    """The error of each output, as a part of its power."""
    from hailo_sdk_client import InferenceContext

    found = []
    for context in (InferenceContext.SDK_FP_OPTIMIZED, InferenceContext.SDK_QUANTIZED):
        with runner.infer_context(context) as place:
            found.append(runner.infer(place, images))
    return [float(((a - b) ** 2).sum() / (a**2).sum()) for a, b in zip(*found, strict=True)]


def optimized(path: Path, folder: Path, images: np.ndarray, more: str = "", **how: Any) -> Any:
    runner = translated(path)
    runner.load_model_script(script(runner, folder, nms=False, **how) + more)
    runner.optimize(images)
    return runner


def test_a_lower_level_is_worse(here: Path, tiny: Path) -> None:
    levels = [
        f"model_optimization_flavor(optimization_level={n}, compression_level=0)" for n in (0, 1)
    ]
    zero, one = (noise(optimized(tiny, here, pixels(), x), pixels()) for x in levels)
    assert sum(zero) > 1.3 * sum(one)
    four = levels[1] + "\nquantization_param({conv*}, precision_mode=a8_w4)"
    assert sum(noise(optimized(tiny, here, pixels(), four), pixels())) > 4 * sum(one)


def test_what_calibration_did_not_show_is_cut_off(here: Path, tiny: Path) -> None:
    dark = pixels() // 16
    good, bad = (noise(optimized(tiny, here, x), pixels()) for x in (pixels(), dark))
    assert sum(bad) > 2 * sum(good)


def test_pixels_that_were_divided_already_ruin_everything_silently(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = noise(optimized(tiny, here, pixels()), pixels())
    capsys.readouterr()
    bad = noise(optimized(tiny, here, pixels().astype(np.float32) / 255), pixels())
    assert "normalized" not in capsys.readouterr().out
    assert sum(bad) > 3 * sum(good)


def test_a_network_that_does_not_normalize_says_so_and_takes_floats(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = translated(tiny)
    runner.optimize(pixels().astype(np.float32) / 255)
    said = capsys.readouterr().out
    assert (
        "[info] The calibration set seems to not be normalized, because the values range is [("
        in said
    )
    assert max(noise(runner, pixels().astype(np.float32) / 255)) < 0.1


def test_an_output_without_its_sigmoid_is_raw(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import InferenceContext

    for sigmoid in (True, False):
        runner = optimized(tiny, here, pixels(), sigmoid=sigmoid)
        with runner.infer_context(InferenceContext.SDK_QUANTIZED) as place:
            scores = runner.infer(place, pixels())[1]
        assert (scores.min() >= 0) == sigmoid


def test_the_compiler_may_make_scores_sigmoid_itself(
    here: Path, tiny: Path, knob: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from hailo_sdk_client import ClientRunner

    knob(SIGMOID="auto")
    runner = translated(tiny)
    runner.load_model_script(script(runner, here, sigmoid=False))
    runner.optimize(pixels())
    said = capsys.readouterr().out
    name = outputs_before(tiny)[1]
    assert f"[info] The activation function of layer {name} was replaced by a Sigmoid\n" in said
    runner.save_har(here / "tiny.har")
    with tarfile.open(here / "tiny.har") as tar:
        file = tar.extractfile("tiny.modifications_meta_data.json")
        assert file is not None
        assert sorted(json.load(file)["sigmoid_layers"]) == sorted(outputs_before(tiny)[1::2])
    knob(SIGMOID="")
    again = ClientRunner(har=here / "tiny.har")
    assert answers(again, pixels()) == answers(runner, pixels())


def outputs_before(path: Path) -> list[str]:
    return outputs(translated(path))


def test_sigmoid_outputs_get_their_whole_range_unless_boxes_are_made_of_them(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hailo_standin import program_file

    runner = optimized(tiny, here, pixels())
    said = capsys.readouterr().out
    name = outputs(runner)[1]
    assert (
        f"[info] Output layer {name} with sigmoid activation was detected. Forcing its output range to be [0, 1] (original range was ["
        in said
    )
    (program,) = program_file.read(runner.compile())
    assert program.layers[1].scale == pytest.approx(1 / 255)
    (program,) = program_file.read(built(tiny, here))
    assert program.layers[1].scale < 1 / 255  # no score above what calibration saw can come out


@pytest.mark.parametrize(("which", "hurt"), [("boxes", (0, 2, 4)), ("scores", (1, 3, 5))])
def test_layers_can_be_spoilt_in_silence(
    here: Path, tiny: Path, knob: Callable[..., None], which: str, hurt: tuple[int, ...]
) -> None:
    level = "model_optimization_flavor(optimization_level=1, compression_level=0)"
    good = noise(optimized(tiny, here, pixels(), level), pixels())
    knob(DAMAGE=which)
    bad = noise(optimized(tiny, here, pixels(), level), pixels())
    worse = tuple(i for i in range(6) if bad[i] > 2 * good[i] + 0.05)
    assert worse == hurt


@pytest.mark.parametrize("demote", ["", "log", "silent"])
def test_outputs_of_16_bits(
    here: Path,
    tiny: Path,
    knob: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    demote: str,
) -> None:
    from hailo_standin import program_file

    knob(DEMOTE=demote)
    more = "quantization_param([output_layer1, output_layer2], precision_mode=a16_w16)"
    runner = optimized(tiny, here, pixels(), more)
    (program,) = program_file.read(runner.compile())
    wanted = [8] * 6 if demote else [16] * 2 + [8] * 4
    assert sorted(s.bits for s in program.layers) == sorted(wanted)
    said = "[warning] Reducing output bits of tiny/output_layer1 by 8.0 bits (More than half)\n"
    assert (said in capsys.readouterr().out) == (demote == "log")


def test_colours_are_turned_on_the_chip(here: Path, tiny: Path) -> None:
    plain = optimized(tiny, here, pixels())
    turned = optimized(tiny, here, pixels(), "input_conversion = input_conversion(bgr_to_rgb)")
    context = "SDK_FP_OPTIMIZED"
    assert answers(turned, pixels()[..., ::-1], context) == answers(plain, pixels(), context)
    assert answers(turned, pixels(), context) != answers(plain, pixels(), context)


def test_compression_takes_4_bits(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flavor = "model_optimization_flavor(optimization_level=2, compression_level=3)"
    optimized(tiny, here, pixels(), flavor)
    said = capsys.readouterr().out
    assert re.search(
        r"Assigning 4bit weights to layer tiny/conv\d+ with \d+\.\d\dk parameters", said
    )
    assert float(re.search(r"Ratio of weights in 4bit is (\S+)", said)[1]) <= 0.6  # type: ignore[index]


# Inference


def test_what_inference_gives(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import InferenceContext

    runner = optimized(tiny, here, pixels())
    with runner.infer_context(InferenceContext.SDK_NATIVE) as place:
        raw = runner.infer(place, pixels(2).astype(np.float32) / 255)
    assert [a.shape for a in raw] == [
        (2, 64 // s, 96 // s, c) for s in (8, 16, 32) for c in (64, 5)
    ]
    with runner.infer_context(InferenceContext.SDK_FP_OPTIMIZED) as place:
        scores = runner.infer(place, pixels(2), batch_size=2)[1]
        assert len(runner.infer(place, pixels(4), data_count=3)[0]) == 3
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw[1])), atol=1e-5)
    with pytest.raises(Exception, match="a context that is open"):
        runner.infer(place, pixels(2))
    with runner.infer_context(InferenceContext.SDK_QUANTIZED) as place:
        with pytest.raises(Exception, match="batch_size"):
            runner.infer(place, pixels(2), batch_size=0)
        assert isinstance(runner.infer(place, pixels(1)), list)
    with pytest.raises(Exception, match="is no InferenceContext"), runner.infer_context("emulator"):
        pass


def test_boxes_come_out_where_the_script_makes_them(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import InferenceContext

    runner = translated(tiny)
    runner.load_model_script(script(runner, here, nms_scores_th=0.0, max_proposals_per_class=7))
    runner.optimize(pixels())
    (last,) = runner.get_hn_model().get_output_layers(remove_non_neural_core_layers=False)
    assert last.output_shape == [-1, 5, 5, 7]
    with runner.infer_context(InferenceContext.SDK_QUANTIZED) as place:
        found = runner.infer(place, pixels(2))
    assert found.shape == (2, 5, 5, 7)
    assert (np.diff(found[:, :, 4], axis=2) <= 0).all()  # best first
    with runner.infer_context(InferenceContext.SDK_QUANTIZED, nms_score_threshold=2) as place:
        assert not runner.infer(place, pixels(2)).any()
    with runner.infer_context(InferenceContext.SDK_NATIVE) as place:
        assert len(runner.infer(place, pixels(1).astype(np.float32) / 255)) == 6


# Compiling


def test_a_network_that_fits(here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built(tiny, here)
    captured = capsys.readouterr()
    assert (
        'To achieve optimal performance, set the compiler_optimization_level to "max"'
        in captured.out
    )
    order = ["Starting Hailo allocation and compilation flow", "Trying to compile the network in a single context",
             "Using Single-context flow", "max_control_utilization=75%", "Running resources allocation (mapping) flow, time per context: 59m 59s",
             "| cluster_0 | 68.8%", "Successful Mapping (allocation time: 23s)", "Bandwidth of model inputs", "Building HEF...",
             "Successful Compilation (compilation time: 14s)"]  # fmt: skip
    places = [captured.out.index(x) for x in order]
    assert places == sorted(places)
    assert "Validating context_0 layer by layer: 100%" in captured.err


@pytest.mark.parametrize(
    ("knobs", "more", "text"),
    [
        ({"MAPPING": "infeasible"}, "", "Compilation failed: No successful assignments: concat24 errors:"),
        ({"MAPPING": "crash"}, "", "Compilation failed with unexpected crash"),
        ({"MAPPING": "partition", "CONTEXTS": 3}, "", "Compiler could not find a valid partition to contexts."),
        ({"CONTEXTS": 3}, "context_switch_param(mode=disabled)", "Context switch is disabled, but model could not fit in single context."),
        ({}, "performance_param(compiler_optimization_level=max)\nresources_param(max_control_utilization=0.7)",
         "Performance Flow requires automatic resource utilization"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit(
    here: Path,
    tiny: Path,
    knob: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    knobs: dict[str, object],
    more: str,
    text: str,
) -> None:
    from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendAllocatorException

    knob(**knobs)
    runner = optimized(tiny, here, pixels(), more)
    with pytest.raises(BackendAllocatorException, match=re.escape(text)):
        runner.compile()
    said = capsys.readouterr().out
    assert "[error] Failed to produce compiled graph\n[error] BackendAllocatorException: " in said
    assert "Successful Compilation" not in said and runner.hef is None


def test_a_joined_output_of_a_real_network_does_not_fit(here: Path, data: Path) -> None:
    from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendAllocatorException

    runner = translated(data / "models" / "yolov8n.onnx", ["/model.22/Concat"])
    images = np.random.default_rng(0).integers(0, 255, (2, 640, 640, 3), np.uint8)
    runner.load_model_script(NORMALIZATION)
    runner.optimize(images)
    with pytest.raises(BackendAllocatorException, match="No successful assignments: concat"):
        runner.compile()


def test_several_contexts(
    here: Path, tiny: Path, knob: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from hailo_standin import program_file

    knob(CONTEXTS=3)
    hef = built(tiny, here)
    said = capsys.readouterr().out
    for text in ("Single context flow failed: Recoverable single context error", "Using Multi-context flow",
                 "Found valid partition to 3 contexts", "Context:2/2 Iteration"):  # fmt: skip
        assert text in said
    (program,) = program_file.read(hef)
    assert program.contexts == 3 and program.post is not None


def test_older_compilers_write_older_files(
    here: Path, tiny: Path, knob: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from hailo_standin import program_file

    for version, header in (("3.27.0", 0), ("3.28.0", 1), ("3.33.1", 2)):
        knob(DFC=version)
        hef = built(tiny, here)
        assert int.from_bytes(hef[4:8], "big") == header
        assert program_file.read(hef)[0].ccws
        old = f"[info] Adding an output layer after {outputs_before(tiny)[0].partition('/')[2]}\n"
        assert (old in capsys.readouterr().out) == (header < 2)


def test_compiling_may_need_a_user(
    here: Path, tiny: Path, knob: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    knob(USER="needed")
    runner = optimized(tiny, here, pixels())
    monkeypatch.delenv("USER", raising=False)
    with pytest.raises(KeyError):
        runner.compile()
    monkeypatch.setenv("USER", "any")
    assert runner.compile()


# Archives


def test_an_archive_goes_on_where_it_was_left(here: Path, tiny: Path) -> None:
    from hailo_sdk_client import ClientRunner, States

    first = translated(tiny, arch="hailo8l")
    first.save_har("parsed.har")
    second = ClientRunner(har="parsed.har")
    second.load_model_script(script(second, here))
    assert second.state == States.HAILO_MODEL and second.hw_arch == "hailo8l"
    second.optimize(pixels())
    second.save_har(here / "quantized.har")
    (here / "nms.json").unlink()  # the archive has its own
    third = ClientRunner(hw_arch="hailo8", har=here / "quantized.har")
    assert third.state == States.QUANTIZED_MODEL and third.hw_arch == "hailo8"
    assert answers(third, pixels()) == answers(second, pixels())
    hef = third.compile()
    third.save_har("compiled.har")
    fourth = ClientRunner()
    fourth.load_har("compiled.har")
    assert fourth.hef == hef and fourth.state == States.COMPILED_MODEL


def test_what_is_in_an_archive(here: Path, tiny: Path) -> None:
    runner = translated(tiny)
    runner.load_model_script(script(runner, here))
    runner.optimize(pixels())
    runner.compile()
    runner.save_har("tiny.har")
    with tarfile.open("tiny.har") as tar:
        names = set(tar.getnames())
        files = {n: tar.extractfile(n).read() for n in names}  # type: ignore[union-attr]
    wanted = {
        "metadata.json",
        "hn",
        "npz",
        "fpo.npz",
        "q.npz",
        "alls",
        "auto.alls",
        "nms.json",
        "hef",
    }
    assert {f"tiny.{w}" for w in wanted} <= names
    metadata = json.loads(files["tiny.metadata.json"])
    assert metadata["state"] == "compiled_model" and metadata["sdk_version"] == "3.33.1"
    assert files["tiny.hef"] == runner.hef
    layers = json.loads(files["tiny.hn"])["layers"]
    assert layers["tiny/conv1"]["input"] == ["tiny/normalization1"]
    assert np.load(io.BytesIO(files["tiny.npz"]))["tiny/conv1/kernel:0"].dtype == np.float32
    codes = np.load(io.BytesIO(files["tiny.q.npz"]))
    assert {codes[k].dtype.name for k in codes if "weight" in k} == {"int8"}


# What happens at import, and worse


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    places = os.pathsep.join(map(str, (hailo_wheels.STANDINS, hailo_wheels.TESTS)))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**clean, "PYTHONPATH": places, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("environment", "visible", "said"),
    [
        ({}, "99", "[info] No GPU chosen and no suitable GPU found, falling back to CPU.\n"),
        ({"HAILO_STANDIN_GPU": "4"}, "0", "[info] No GPU chosen, Selected GPU 0\n"),
        ({"HAILO_STANDIN_GPU": "6"}, "99", "[info] No GPU chosen and no suitable GPU found, falling back to CPU.\n"),
        ({"HAILO_STANDIN_GPU": "90", "CUDA_VISIBLE_DEVICES": "0"}, "0", "[info] Selected GPU 0\n"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "-1", ""),
    ],
)  # fmt: skip
def test_a_gpu_is_chosen_at_import(
    here: Path, environment: dict[str, str], visible: str, said: str
) -> None:
    code = (
        "import hailo_sdk_client, os, tensorflow as tf\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], len(tf.config.list_physical_devices('GPU')))"
    )
    made = run(code, here, **environment)
    assert made.stdout == f"{said}{visible} {int(visible == '0')}\n", made.stderr
    assert {p.name for p in here.glob("*.log")} >= {"hailo_sdk.client.log", "acceleras.log"}


def test_imports_that_fail(here: Path) -> None:
    made = run("import hailo_sdk_client", here, HAILO_STANDIN_GRAPHVIZ="missing")
    assert made.stderr.endswith("ModuleNotFoundError: No module named 'pygraphviz'\n")
    made = run("import hailo_sdk_client", here, HAILO_STANDIN_SYSTEM="127")
    assert made.returncode == 127 and "first initialization error" in made.stdout
    made = run("import hailo_sdk_client", here, HAILO_STANDIN_GRAPHVIZ="warning")
    assert "[warning] Cannot use graphviz, so no visualizations will be created\n" in made.stdout
    made = run("import hailo_platform", here, HAILO_STANDIN_NATIVE="4.22.0")
    assert made.stderr.endswith(
        "ImportError: _pyhailort version (4.22.0) does not match pyhailort version (4.23.0)\n"
    )


@pytest.mark.parametrize(("name", "code"), [("KILL", -9), ("CRASH", -6)])
def test_stages_in_which_it_dies(here: Path, name: str, code: int) -> None:
    made = run("import hailo_sdk_client", here, **{f"HAILO_STANDIN_{name}": "import"})
    assert made.returncode == code
    made = run("import hailo_sdk_client", here, **{f"HAILO_STANDIN_{name}": "compile"})
    assert made.returncode == 0


def test_a_stage_in_which_it_hangs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hailo_standin

    slept: list[float] = []
    monkeypatch.setattr(hailo_standin.time, "sleep", slept.append)
    monkeypatch.setenv("HAILO_STANDIN_HANG", "optimize,compile")
    for stage in ("translate", "optimize", "compile"):
        hailo_standin.stage(stage)
    assert slept == [3600, 3600]


def test_unknown_knobs_are_none(standins: None) -> None:
    import hailo_standin

    with pytest.raises(KeyError):
        hailo_standin.knob("SPEED")


# The runtime


@pytest.fixture
def hef(here: Path, tiny: Path) -> bytes:
    return built(tiny, here, level="1", nms_scores_th=0.0)


@pytest.fixture
def raw(here: Path, tiny: Path) -> bytes:
    """A program that ends in the layers themselves."""
    return built(tiny, here, level="1", nms=False)


@pytest.fixture
def device(here: Path) -> Iterator[Any]:
    """A chip with a scheduler; nothing of it may stay open."""
    import hailo_platform
    from hailo_platform.pyhailort import _pyhailort

    params = hailo_platform.VDevice.create_params()
    params.scheduling_algorithm = hailo_platform.HailoSchedulingAlgorithm.ROUND_ROBIN
    with hailo_platform.VDevice(params) as found:
        yield found
    del found
    assert _pyhailort.open_resources() == {}


def infer(configured: Any, model: Any, images: np.ndarray) -> Any:
    """Run frames as one ought to; return their bindings and what the callback was told."""
    bindings, told = [], []
    for image in images:
        buffers = {o.name: np.empty(o.shape, _dtype(o)) for o in model.outputs}
        binding = configured.create_bindings(output_buffers=buffers)
        binding.input().set_buffer(image.copy())
        bindings.append(binding)
    configured.wait_for_async_ready(1000, len(bindings))
    job = configured.run_async(bindings, lambda completion_info: told.append(completion_info))
    job.wait(10_000)
    return bindings, [t.exception for t in told]


def _dtype(stream: Any) -> Any:
    from hailo_platform.pyhailort import _pyhailort

    return _pyhailort.get_dtype(stream.format.type)


def test_a_program_says_what_it_is(hef: bytes, raw: bytes, here: Path) -> None:
    from hailo_platform import HEF, FormatOrder, FormatType

    (here / "tiny.hef").write_bytes(hef)
    found = HEF(str(here / "tiny.hef"))
    assert found.get_network_group_names() == ["tiny"] and found.path == str(here / "tiny.hef")
    (entry,), (boxes,) = found.get_input_vstream_infos(), found.get_output_vstream_infos()
    assert (entry.name, entry.shape) == ("tiny/input_layer1", (64, 96, 3))
    assert (entry.format.type, entry.format.order) == (FormatType.UINT8, FormatOrder.NHWC)
    assert (boxes.name, boxes.shape) == ("tiny/yolov8_nms_postprocess", (5, 5, 100))
    assert boxes.nms_shape.number_of_classes == 5 and boxes.quant_info.qp_scale == 1
    assert found.get_original_names_from_vstream_name(boxes.name) == ENDS
    assert len(found.get_output_stream_infos()) == 6 and found.bottleneck_fps() > 0
    layers = HEF(raw).get_output_vstream_infos()
    assert [i.shape for i in layers] == [
        (64 // s, 96 // s, c) for s in (8, 16, 32) for c in (64, 5)
    ]
    assert HEF(raw).get_vstream_name_from_original_name(ENDS[1]) == layers[1].name
    with pytest.raises(RuntimeError, match="nms_shape"):
        _ = layers[0].nms_shape


@pytest.mark.parametrize("level", ["0", "1"])
def test_the_chip_computes_what_the_emulator_did(
    here: Path, tiny: Path, device: Any, level: str
) -> None:
    from hailo_platform import FormatType
    from hailo_sdk_client import InferenceContext

    flavor = f"model_optimization_flavor(optimization_level={level}, compression_level=0)"
    runner = optimized(tiny, here, pixels(), flavor)
    with runner.infer_context(InferenceContext.SDK_QUANTIZED) as place:
        wanted = runner.infer(place, pixels(2))
    model = device.create_infer_model(runner.compile())
    for stream in model.outputs:
        stream.set_format_type(FormatType.FLOAT32)
    with model.configure() as configured:
        bindings, told = infer(configured, model, pixels(2))
        for index, name in enumerate(model.output_names):
            found = np.stack([b.output(name).get_buffer() for b in bindings])
            np.testing.assert_array_equal(found, wanted[index])
    assert told == [None]


def test_raw_outputs_are_codes_until_floats_are_asked_for(raw: bytes, device: Any) -> None:
    from hailo_platform import FormatOrder, FormatType

    found = {}
    for kind in (FormatType.UINT8, FormatType.FLOAT32):
        model = device.create_infer_model(raw)
        stream = model.output(model.output_names[0])
        assert stream.format.type == FormatType.UINT8 and stream.shape == [8, 12, 64]
        stream.set_format_type(kind)
        quant = stream.quant_infos[0]
        with model.configure() as configured:
            (binding,), _ = infer(configured, model, pixels(1))
            found[kind] = binding.output(stream.name).get_buffer()
    codes = found[FormatType.UINT8].astype(np.float32)
    values = (codes - quant.qp_zp) * np.float32(quant.qp_scale)
    np.testing.assert_allclose(found[FormatType.FLOAT32], values, atol=quant.qp_scale / 2)
    model = device.create_infer_model(raw)
    stream = model.output(model.output_names[0])
    stream.set_format_order(FormatOrder.NCHW)
    assert stream.shape == [64, 8, 12]
    with model.configure() as configured:
        (binding,), _ = infer(configured, model, pixels(1))
        np.testing.assert_array_equal(
            binding.output(stream.name).get_buffer(), codes.transpose(2, 0, 1)
        )


def test_boxes_are_packed_and_thresholds_are_obeyed(hef: bytes, device: Any) -> None:
    counts, name = {}, "tiny/yolov8_nms_postprocess"
    for score, most, iou in ((0.0, 100, 0.7), (0.0, 3, 0.7), (0.5, 100, 0.7), (0.0, 100, 0.01)):
        model = device.create_infer_model(hef)
        model.output().set_nms_score_threshold(score)
        model.output().set_nms_max_proposals_per_class(most)
        model.output().set_nms_iou_threshold(iou)
        assert model.output().is_nms and model.output().shape == [5 * (1 + 5 * most)]
        with model.configure() as configured:
            (binding,), _ = infer(configured, model, pixels(1))
            flat, boxes = (binding.output(name).get_buffer(x) for x in (None, False))
            padded = binding.output().get_buffer(tf_format=True)
        assert padded.shape == (5, 5, most)
        at = 0
        for index, rows in enumerate(boxes):
            assert flat[at] == len(rows) <= most
            np.testing.assert_array_equal(flat[at + 1 : at + 1 + rows.size].reshape(-1, 5), rows)
            np.testing.assert_array_equal(padded[index, :, : len(rows)].T, rows)
            assert not padded[index, :, len(rows) :].any()
            assert (rows[:, 4] >= score).all() and (np.diff(rows[:, 4]) <= 0).all()
            assert (rows[:, 2] >= rows[:, 0]).all() and (rows[:, 3] >= rows[:, 1]).all()
            at += 1 + rows.size
        counts[score, most, iou] = sum(map(len, boxes))
    everything = counts[0.0, 100, 0.7]
    assert everything > 0 and counts[0.5, 100, 0.7] < everything
    assert counts[0.0, 3, 0.7] == 15 and counts[0.0, 100, 0.01] < everything


@pytest.mark.parametrize(
    ("family", "layers", "more"),
    [
        ("yolox", ("reg_layer", "cls_layer", "objectness_layer"), {"number_of_detection_heads": 3}),
        ("yolov5", ("encoded_layer",), {"background_removal": False}),
    ],
)
def test_boxes_of_other_heads(
    here: Path, device: Any, family: str, layers: tuple[str, ...], more: dict[str, Any]
) -> None:
    from hailo_sdk_client import InferenceContext
    from hailo_standin import parse

    path = here / "model.onnx"
    onnx.save(getattr(graphs, family)(), path)
    seen = parse.structure(parse._loaded(str(path), None))
    assert seen is not None
    runner = translated(path, list(seen.ends))
    names, decoders = outputs(runner), []
    ordered = {n.partition("/")[2]: runner.get_hn_model().get_layer_by_name(n) for n in names}
    for level, end in enumerate(seen.ends[:: len(layers)]):
        own = seen.ends[seen.ends.index(end) :][: len(layers)]
        found = [n for e in own for n, x in ordered.items() if e in x.original_names]
        anchors = {"w": [10, 16, 33], "h": [13, 30, 23]} if family == "yolov5" else {}
        decoders.append({"name": f"d{level}", "stride": 8 << level, **dict(zip(layers, found, strict=True)), **anchors})  # fmt: skip
    whole = {"nms_scores_th": 0.05, "nms_iou_th": 0.7, "image_dims": [64, 96], "classes": 5,
             "max_proposals_per_class": 9, "bbox_decoders": decoders, **more}  # fmt: skip
    (here / "nms.json").write_text(json.dumps(whole))
    sigmoid = "change_output_activation(sigmoid)\n" if family == "yolov5" else ""
    runner.load_model_script(
        f'{NORMALIZATION}{sigmoid}nms_postprocess("nms.json", {family}, engine=cpu)'
    )
    runner.optimize(pixels())
    with runner.infer_context(InferenceContext.SDK_QUANTIZED) as place:
        wanted = runner.infer(place, pixels(2))
    model = device.create_infer_model(runner.compile())
    with model.configure() as configured:
        bindings, told = infer(configured, model, pixels(2))
        found = np.stack([b.output().get_buffer(tf_format=True) for b in bindings])
    assert told == [None] and found[:, :, 4].max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("buffer", "error", "when"),
    [
        (lambda: pixels(1)[0][:, ::-1], "HailoRTException", "set"),
        (lambda: np.frombuffer(pixels(1).tobytes(), np.uint8).reshape(64, 96, 3), "ValueError", "set"),
        (lambda: pixels(1)[0][:32].copy(), "HailoRTInvalidOperationException", "run"),
        (lambda: pixels(1)[0].astype(np.float32), "HailoRTInvalidOperationException", "run"),
        (lambda: pixels(1)[0].astype(np.int8), "HailoRTInvalidOperationException", "run"),
    ],
)  # fmt: skip
def test_buffers_that_are_wrong(
    hef: bytes, device: Any, buffer: Callable[[], np.ndarray], error: str, when: str
) -> None:
    from hailo_platform.pyhailort import pyhailort

    model = device.create_infer_model(hef)
    with model.configure() as configured:
        binding = configured.create_bindings(
            output_buffers={model.output_names[0]: np.empty(model.output().shape, np.float32)}
        )
        found = getattr(pyhailort, error, ValueError)
        if when == "set":
            with pytest.raises(found, match=r"C_CONTIGUOUS|not writeable"):
                binding.input().set_buffer(buffer())
            return
        binding.input().set_buffer(buffer())  # only when it runs is it looked at
        with pytest.raises(found):
            configured.run_async([binding])


def test_a_frame_needs_all_its_buffers(hef: bytes, device: Any) -> None:
    from hailo_platform.pyhailort.pyhailort import HailoRTNotFoundException

    model = device.create_infer_model(hef)
    with model.configure() as configured:
        binding = configured.create_bindings()
        binding.input().set_buffer(pixels(1)[0])
        with pytest.raises(HailoRTNotFoundException):
            configured.run_async([binding])
        with pytest.raises(HailoRTNotFoundException):
            binding.output("tiny/conv1")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m, hp: m.input().set_nms_score_threshold(0.5), "HailoRTInvalidOperationException"),
        (lambda m, hp: m.output().set_format_type(hp.FormatType.UINT8), "HailoRTInvalidArgumentException"),
        (lambda m, hp: m.input().set_format_type(hp.FormatType.UINT16), "HailoRTInvalidArgumentException"),
        (lambda m, hp: m.input().set_format_order(hp.FormatOrder.NV12), "HailoRTInvalidArgumentException"),
        (lambda m, hp: m.input().set_format_type("float32"), "TypeError"),
        (lambda m, hp: m.set_batch_size(1.5), "TypeError"),
        (lambda m, hp: m.output("tiny/conv1"), "HailoRTNotFoundException"),
    ],
)  # fmt: skip
def test_formats_that_cannot_be_had(
    hef: bytes, device: Any, change: Callable[[Any, Any], None], error: str
) -> None:
    import hailo_platform
    from hailo_platform.pyhailort import pyhailort

    model = device.create_infer_model(hef)

    def configure() -> None:
        change(model, hailo_platform)
        model.configure()

    with pytest.raises(getattr(pyhailort, error, TypeError)):
        configure()


def test_several_outputs_need_names(raw: bytes, device: Any) -> None:
    from hailo_platform.pyhailort.pyhailort import HailoRTInvalidOperationException

    model = device.create_infer_model(raw)
    with pytest.raises(HailoRTInvalidOperationException):
        model.output()
    model.output(model.output_names[0]).set_nms_score_threshold(0.5)
    with pytest.raises(HailoRTInvalidOperationException):
        model.configure()


def test_a_failed_job_is_told_to_its_callback_alone(
    here: Path, tiny: Path, device: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    from hailo_platform.pyhailort.pyhailort import HailoRTInvalidArgumentException

    model = device.create_infer_model(built(tiny, here, classes=4))  # and the layers have five
    with model.configure() as configured:
        _, told = infer(configured, model, pixels(1))  # `wait` raised nothing
        assert [type(t) for t in told] == [HailoRTInvalidArgumentException]
        with pytest.raises(HailoRTInvalidArgumentException):  # and the pipeline is dead
            infer(configured, model, pixels(1))
    assert "has 5 channels, not 4" in capfd.readouterr().err


def test_queues_and_times(hef: bytes, device: Any, knob: Callable[..., None]) -> None:
    from hailo_platform.pyhailort.pyhailort import HailoRTException, HailoRTTimeout

    knob(SLOW=150)
    model = device.create_infer_model(hef)
    model.set_batch_size(2)
    with model.configure() as configured:
        assert configured.get_async_queue_size() == 4
        with pytest.raises(HailoRTTimeout):
            configured.wait_for_async_ready(10, 5)
        done = threading.Event()
        bindings = []
        for image in pixels(4):
            bindings.append(configured.create_bindings({model.input_names[0]: image.copy()},
                                                       {model.output_names[0]: np.empty(model.output().shape, np.float32)}))  # fmt: skip
        job = configured.run_async(bindings, lambda completion_info: done.set())
        with pytest.raises(HailoRTException, match="HAILO_QUEUE_IS_FULL"):
            configured.run_async(bindings[:1])
        with pytest.raises(HailoRTTimeout):
            job.wait(1)
        job.wait(5000)
        assert done.is_set()


def test_nothing_can_be_used_after_it_was_let_go(hef: bytes, here: Path) -> None:
    from hailo_platform import VDevice
    from hailo_platform.pyhailort import _pyhailort
    from hailo_platform.pyhailort.pyhailort import HailoRTException

    device = VDevice()
    model = device.create_infer_model(hef)
    configured = model.configure()
    assert _pyhailort.open_resources() == {"VDevice": 1, "Configured": 1}
    configured.shutdown()
    with pytest.raises(HailoRTException):
        configured.create_bindings()
    with model.configure() as configured:
        pass
    with pytest.raises(AttributeError):
        configured.create_bindings()
    device.release()
    with pytest.raises(AttributeError):
        device.create_infer_model(hef)
    with pytest.raises(HailoRTException, match="HAILO_OUT_OF_PHYSICAL_DEVICES"):
        VDevice()  # the model keeps the chip
    del model, configured
    VDevice().release()
    assert _pyhailort.open_resources() == {}


def test_without_a_scheduler_one_activates(hef: bytes, here: Path, device: Any) -> None:
    from hailo_platform.pyhailort.pyhailort import (
        HailoRTInvalidOperationException,
        HailoRTNetworkGroupNotActivatedException,
    )

    model = device.create_infer_model(hef)
    with model.configure() as configured, pytest.raises(HailoRTInvalidOperationException):
        configured.activate()
    with model.configure() as configured:
        configured.set_scheduler_timeout(100)
    del model, configured
    device.release()
    from hailo_platform import VDevice

    with VDevice() as plain:
        model = plain.create_infer_model(hef)
        with model.configure() as configured:
            with pytest.raises(HailoRTInvalidOperationException):
                configured.set_scheduler_timeout(100)
            with pytest.raises(HailoRTNetworkGroupNotActivatedException):
                infer(configured, model, pixels(1))
            configured.activate()
            assert infer(configured, model, pixels(1))[1] == [None]
            configured.deactivate()
        del model, configured


def test_the_older_way(hef: bytes, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    import hailo_platform as hp
    from hailo_platform.pyhailort import _pyhailort
    from hailo_platform.pyhailort.pyhailort import HailoRTNetworkGroupNotActivatedException

    program = hp.HEF(hef)
    params = hp.ConfigureParams.create_from_hef(program, interface=hp.HailoStreamInterface.PCIe)
    with hp.VDevice() as device:
        (group,) = device.configure(program, params)
        entry, ends = hp.InputVStreamParams.make(group), hp.OutputVStreamParams.make(group)
        frames = {"tiny/input_layer1": pixels(3).astype(np.float32)}
        with hp.InferVStreams(group, entry, ends) as pipeline:
            with pytest.raises(HailoRTNetworkGroupNotActivatedException):
                pipeline.infer(dict(frames))
            with group.activate(group.create_params()):
                found = pipeline.infer(dict(frames))["tiny/yolov8_nms_postprocess"]
                pipeline.set_nms_score_threshold(2.0)
                none = pipeline.infer(pixels(3))["tiny/yolov8_nms_postprocess"]
        assert "is different than inferred dtype" in caplog.text
        assert len(found) == 3 and [r.shape[1] for r in found[0]] == [5] * 5
        assert sum(len(r) for f in none for r in f) == 0 < sum(len(r) for f in found for r in f)
        with hp.InferVStreams(group, entry, ends, tf_nms_format=True) as pipeline, group.activate():
            assert pipeline.infer(pixels(2))["tiny/yolov8_nms_postprocess"].shape == (2, 5, 5, 100)
            with pytest.raises(hp.HailoRTException):
                pipeline.infer(pixels(2)[:, :32])
        del group
    assert _pyhailort.open_resources() == {}


def test_the_older_way_needs_the_older_chips(
    here: Path, tiny: Path, knob: Callable[..., None]
) -> None:
    import hailo_platform as hp

    knob(DFC="5.2.0", DEVICES="0001:01:00.0=hailo10h")
    hef = built_for("hailo10h", tiny, here)
    with hp.VDevice() as device:
        with pytest.raises(hp.HailoRTException, match="HAILO_NOT_IMPLEMENTED"):
            device.configure(hp.HEF(hef))
        model = device.create_infer_model(hef)
        with model.configure():
            pass
        del model


def built_for(arch: str, path: Path, folder: Path) -> bytes:
    import hailo_sdk_client.exposed_definitions as exposed

    known, name = list(exposed.SUPPORTED_HW_ARCHS), arch
    exposed.SUPPORTED_HW_ARCHS.append(name)  # the list is made at import
    try:
        return built(path, folder, arch=name)
    finally:
        exposed.SUPPORTED_HW_ARCHS[:] = known


@pytest.mark.parametrize(
    ("compiled", "chip", "good"),
    [("hailo8", "hailo8", True), ("hailo8l", "hailo8", True), ("hailo8r", "hailo8", True),
     ("hailo8l", "hailo8l", True), ("hailo8", "hailo8l", False)],
)  # fmt: skip
def test_programs_are_for_one_chip(
    here: Path,
    tiny: Path,
    knob: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    compiled: str,
    chip: str,
    good: bool,
) -> None:
    from hailo_platform import VDevice
    from hailo_platform.pyhailort.pyhailort import HailoRTHEFNotCompatibleWithDevice

    knob(DEVICES=f"0000:01:00.0={chip}")
    hef = built(tiny, here, arch=compiled)
    with VDevice() as device:
        model = device.create_infer_model(hef)
        if good:
            with model.configure():
                pass
        else:
            with pytest.raises(HailoRTHEFNotCompatibleWithDevice):
                model.configure()
        del model
    slow = "HEF was compiled for Hailo8L device, while the device itself is Hailo8."
    assert (slow in capfd.readouterr().err) == ((compiled, chip) == ("hailo8l", "hailo8"))


@pytest.mark.parametrize(
    ("knobs", "error", "text", "log"),
    [
        ({"DEVICES": "none"}, "HailoRTException", "74 (HAILO_OUT_OF_PHYSICAL_DEVICES)", "requested: 1, found: 0"),
        ({"BUSY": "0000:01:00.0"}, "HailoRTException", "74 (HAILO_OUT_OF_PHYSICAL_DEVICES)",
         "Failed to create vdevice. there are not enough free devices. requested: 1, found: 0"),
        ({"DRIVER": "4.21.0"}, "HailoRTException", "76 (HAILO_INVALID_DRIVER_VERSION)",
         "Driver version (4.21.0) is different from library version (4.23.0)"),
        ({"DRIVER": "ioctl"}, "HailoRTDriverOperationFailedException",
         "Failure in hailort driver ioctl. run 'dmesg | grep hailo' for more information", "ioctl"),
        ({"DRIVER": "ioctl", "HAILORT": "4.17.0"}, "HailoRTDriverOperationFailedException",
         "PCIe driver failure. run 'dmesg | grep hailo' for more information", "ioctl"),
        ({"FIRMWARE": "4.20.0"}, "HailoRTException", "16 (HAILO_UNSUPPORTED_FW_VERSION)", "4.20.0"),
        ({"LOST": "."}, "HailoRTException", "74 (HAILO_OUT_OF_PHYSICAL_DEVICES)", "found: 0"),
    ],
)  # fmt: skip
def test_chips_that_cannot_be_had(
    here: Path,
    knob: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    knobs: dict[str, str],
    error: str,
    text: str,
    log: str,
) -> None:
    from hailo_platform import Device, VDevice
    from hailo_platform.pyhailort import _pyhailort

    knob(**knobs)
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        VDevice()
    assert type(caught.value).__name__ == error
    assert isinstance(caught.value.__cause__, _pyhailort.HailoRTStatusException)
    assert log in capfd.readouterr().err
    if "DRIVER" in knobs:  # which pyhailort lets through as it is
        with pytest.raises(_pyhailort.HailoRTStatusException, match=r"36|76"):
            Device()
    assert Device.scan() == ([] if {"DEVICES", "LOST"} & set(knobs) else ["0000:01:00.0"])


def test_a_chip_says_what_it_is(here: Path, knob: Callable[..., None]) -> None:
    from hailo_platform import Device
    from hailo_platform.pyhailort.pyhailort import HailoRTUnsupportedOpcodeException

    knob(DEVICES="0000:01:00.0=hailo8,0001:01:00.0=hailo8l")
    assert Device.scan() == ["0000:01:00.0", "0001:01:00.0"]
    with Device("0001:01:00.0") as device:
        board = device.control.identify()
        assert str(board.device_architecture) == "HAILO8L" and int(board.device_architecture) == 2
        assert str(board.firmware_version).startswith("4.23.0")
        assert device.control.get_chip_temperature().ts0_temperature > 0
        with pytest.raises(HailoRTUnsupportedOpcodeException):
            device.control.power_measurement()
    with pytest.raises(Exception, match="has been released"):
        device.control.identify()


def test_a_chip_that_goes_away(
    hef: bytes, device: Any, here: Path, knob: Callable[..., None]
) -> None:
    from hailo_platform import Device
    from hailo_platform.pyhailort.pyhailort import HailoRTPCIeDriverException

    knob(LOST=here / "gone")
    model = device.create_infer_model(hef)
    with model.configure() as configured:
        assert infer(configured, model, pixels(1))[1] == [None]
        (here / "gone").touch()
        assert Device.scan() == []
        _, told = infer(configured, model, pixels(1))
        assert [type(t) for t in told] == [HailoRTPCIeDriverException]


def test_a_real_compilers_program_is_not_run(data: Path, here: Path, device: Any) -> None:
    path = data / "hef" / "hand_landmark_lite_8L.hef"
    model = device.create_infer_model(str(path))
    with model.configure() as configured:
        frame = np.zeros((1, *model.input().shape), np.uint8)
        _, told = infer(configured, model, frame)
        assert "HAILO_INTERNAL_FAILURE" in str(told[0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda hef: hef[:-1], "91 (HAILO_HEF_FILE_CORRUPTED)"),
        (lambda hef: b"\0" + hef[1:], "92 (HAILO_HEF_NOT_SUPPORTED)"),
        (lambda hef: hef[:4] + b"\0\0\0\x09" + hef[8:], "92 (HAILO_HEF_NOT_SUPPORTED)"),
        (lambda hef: b"", "92 (HAILO_HEF_NOT_SUPPORTED)"),
    ],
)
def test_files_that_are_no_programs(
    hef: bytes, device: Any, change: Callable[[bytes], bytes], text: str
) -> None:
    from hailo_platform import HEF, HailoRTException

    with pytest.raises(HailoRTException, match=re.escape(text)):
        HEF(change(hef))
    with pytest.raises(HailoRTException, match=re.escape(text)):
        device.create_infer_model(change(hef))
    with pytest.raises(HailoRTException, match=re.escape("13 (HAILO_OPEN_FILE_FAILURE)")):
        HEF("nowhere.hef")
    with pytest.raises(ValueError, match="file path"):
        HEF(Path("nowhere.hef"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        device.create_infer_model(Path("nowhere.hef"))


def test_a_group_shares_a_chip_within_a_process(here: Path) -> None:
    from hailo_platform import HailoRTException, VDevice

    params = VDevice.create_params()
    params.group_id = "SHARED"
    with VDevice(params), VDevice(params), pytest.raises(HailoRTException, match="74"):
        VDevice()
    with VDevice(device_ids=["0000:01:00.0"]) as device:
        assert device.get_physical_devices_ids() == ["0000:01:00.0"]
    params.device_ids = ["0000:01:00.0"]
    with pytest.raises(HailoRTException, match="Invalid operation"):
        VDevice(params, device_ids=["0000:01:00.0"])
    for name, value in (("scheduling_algorithm", 1), ("group_id", 3), ("device_count", "1")):
        with pytest.raises(TypeError):
            setattr(params, name, value)
    with pytest.raises(AttributeError):
        params.batch_size = 2


@pytest.mark.parametrize(("service", "good"), [(True, True), (False, False)])
def test_processes_share_a_chip_through_the_service(
    here: Path, knob: Callable[..., None], service: bool, good: bool
) -> None:
    from hailo_platform import VDevice

    knob(STATE=here)
    code = (
        "from hailo_platform import VDevice\n"
        "p = VDevice.create_params()\n"
        f"p.group_id, p.multi_process_service = 'SHARED', {service}\n"
        "with VDevice(p): print('mine')"
    )
    params = VDevice.create_params()
    params.group_id, params.multi_process_service = "SHARED", service
    with VDevice(params):
        assert (run(code, here).stdout == "mine\n") == good
    gc.collect()
    assert run(code, here).stdout == "mine\n"


# The wheels


def test_wheels_are_whole_and_can_be_used(here: Path) -> None:
    venv.create(here / "env", with_pip=False, symlinks=True)
    packages = next((here / "env").glob("lib/python*/site-packages"))
    for wheel in (hailo_wheels.dfc_wheel(here), hailo_wheels.hailort_wheel(here)):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(packages)
            record = next(n for n in packed.namelist() if n.endswith("/RECORD"))
            rows = list(csv.reader(packed.read(record).decode().splitlines()))
            assert {r[0] for r in rows} == set(packed.namelist())
            for name, digest, size in rows:
                data = packed.read(name)
                sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                assert name == record or (digest, size) == (f"sha256={sha}", str(len(data)))
    made = subprocess.run(
        [here / "env" / "bin" / "python", "-I", "-c",
         "import msgspec, numpy, onnxruntime, onchip; from hailo_sdk_client import ClientRunner\n"
         "import hailo_sdk_client, hailo_platform\n"
         "print(hailo_sdk_client.__version__, hailo_platform.__version__, hailo_sdk_client.__file__)"],
        capture_output=True, text=True, check=False, cwd=here,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (
        made.stdout.splitlines()[-1]
        == f"3.33.1 4.23.0 {packages / 'hailo_sdk_client' / '__init__.py'}"
    )


def test_names_of_wheels(tmp_path: Path) -> None:
    assert (
        hailo_wheels.dfc_wheel(tmp_path).name
        == "hailo_dataflow_compiler-3.33.1-py3-none-linux_x86_64.whl"
    )
    tag = f"cp3{sys.version_info[1]}"
    assert (
        hailo_wheels.hailort_wheel(tmp_path).name == f"hailort-4.23.0-{tag}-{tag}-linux_x86_64.whl"
    )
    assert hailo_wheels.other_wheel(tmp_path).name == "hailo_model_zoo-2.18.0-py3-none-any.whl"
    with zipfile.ZipFile(
        hailo_wheels.dfc_wheel(tmp_path, "3.28.0", requires=["pygraphviz"])
    ) as packed:
        metadata = packed.read("hailo_dataflow_compiler-3.28.0.dist-info/METADATA").decode()
    assert "Name: hailo-dataflow-compiler\nVersion: 3.28.0\n" in metadata
    assert "Requires-Dist: pygraphviz\n" in metadata
    with zipfile.ZipFile(hailo_wheels.for_another_python(tmp_path)) as packed:
        built = packed.read("hailo_dataflow_compiler-3.33.1.dist-info/WHEEL").decode()
    assert "Tag: cp36-cp36m-linux_x86_64\n" in built


def test_wheels_that_are_broken(tmp_path: Path) -> None:
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(hailo_wheels.truncated(hailo_wheels.dfc_wheel(tmp_path)))
    path = hailo_wheels.altered(hailo_wheels.dfc_wheel(tmp_path))
    with zipfile.ZipFile(path) as packed, pytest.raises((zipfile.BadZipFile, zlib.error)):
        packed.extractall(tmp_path)
