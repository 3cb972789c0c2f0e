"""Model scripts: how they are written, and which commands and arguments there are.

Only what stands in the scripts of the Hailo Model Zoo (v2.8 to v2.18) or in public logs is taken;
anything else is refused, as the compiler refuses what it does not know.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendScriptParserException

Check = Callable[[Any], bool]


class Word(str):
    """A name without quotes."""


class Text(str):
    """A text in quotes."""


class Glob(str):
    """Names in braces, where `*` stands for anything."""


@dataclass(frozen=True)
class Command:
    """One statement: `left = name(values, key=value)`."""

    left: tuple[str, ...]
    name: str
    values: tuple[Any, ...]
    fields: dict[str, Any]
    line: str

    def __str__(self) -> str:
        """The statement as it was written, on one line."""
        return self.line


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w/]))
  | (?P<word>[A-Za-z_]\w*(?:/[A-Za-z_]\w*)?|\d+[smh]\b)
  | (?P<text>"[^"\n]*"|'[^'\n]*')
  | (?P<glob>\{[^{}\n]*\})
  | (?P<mark>[()\[\],=])
    )""",
    re.VERBOSE,
)


def read(text: str) -> list[Command]:
    """Return the statements of a script.

    Raises:
        BackendScriptParserException: the text is no script.
    """
    found = []
    for line in _statements(text):
        found.append(_Parser(line).command())
        check(found[-1])
    return found


def _statements(text: str) -> Iterator[str]:
    """Yield statements; one may go on over lines while a bracket is open."""
    open_, parts = 0, list[str]()
    for line in text.splitlines():
        bare = line.split("#", 1)[0] if '"' not in line else line
        if not bare.strip() and not open_:
            continue
        parts.append(bare.strip())
        open_ += bare.count("(") + bare.count("[") - bare.count(")") - bare.count("]")
        if open_ <= 0:
            yield " ".join(parts)
            open_, parts = 0, []
    if parts:
        yield " ".join(parts)


class _Parser:
    """Reads one statement."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(line.rstrip()):
            match = _TOKEN.match(line, at)
            if match is None:
                raise self._fault()
            kind = str(match.lastgroup)
            self._tokens.append((kind, match.group(kind)))
            at = match.end()

    def command(self) -> Command:
        left: list[str] = []
        name = self._take("word")
        if self._next() != "(":
            left.append(name)
            while self._next() == ",":
                self._mark(",")
                left.append(self._take("word"))
            self._mark("=")
            name = self._take("word")
        self._mark("(")
        values: list[Any] = []
        fields: dict[str, Any] = {}
        while self._next() != ")":
            self._argument(values, fields)
            if self._next() != ")":
                self._mark(",")
        self._mark(")")
        if self._tokens:
            raise self._fault()
        return Command(tuple(left), name, tuple(values), fields, self._line)

    def _argument(self, values: list[Any], fields: dict[str, Any]) -> None:
        named = len(self._tokens) > 1 and self._tokens[1] == ("mark", "=")
        if not named:
            if fields:
                raise self._fault()
            values.append(self._value())
            return
        key = self._take("word")
        self._mark("=")
        if key in fields:
            raise self._fault()
        fields[key] = self._value()

    def _value(self) -> Any:
        if self._next() == "[":
            self._mark("[")
            found = []
            while self._next() != "]":
                found.append(self._value())
                if self._next() != "]":
                    self._mark(",")
            self._mark("]")
            return found
        if not self._tokens:
            raise self._fault()
        kind, text = self._tokens.pop(0)
        if kind == "number":
            return float(text) if set(text) & set(".eE") else int(text)
        if kind == "word":
            return Word(text)
        if kind == "text":
            return Text(text[1:-1])
        if kind == "glob":
            return Glob(text[1:-1])
        raise self._fault()

    def _next(self) -> str:
        if not self._tokens:
            raise self._fault()
        return self._tokens[0][1]

    def _take(self, kind: str) -> str:
        if not self._tokens or self._tokens[0][0] != kind:
            raise self._fault()
        return self._tokens.pop(0)[1]

    def _mark(self, text: str) -> None:
        if self._take("mark") != text:
            raise self._fault()

    def _fault(self) -> BackendScriptParserException:
        return BackendScriptParserException(f"Parsing failed at:\n>!<{self._line}")


# What values may be


def _whole(low: int, high: int | None = None) -> Check:
    def check(value: Any) -> bool:
        return type(value) is int and low <= value and (high is None or value <= high)

    return check


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_number, value))


def _part(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 2


def _word(*known: str) -> Check:
    return lambda value: isinstance(value, Word) and value in known


def _layer(value: Any) -> bool:
    return isinstance(value, Word)


def _layers(value: Any) -> bool:
    many = isinstance(value, list) and bool(value) and all(map(_layer, value))
    return _layer(value) or isinstance(value, Glob) or many


def _words(*known: str) -> Check:
    return lambda value: isinstance(value, list) and all(isinstance(v, Word) and v in known for v in value)  # fmt: skip


def _text(value: Any) -> bool:
    return isinstance(value, Text)


def _truth(value: Any) -> bool:
    return isinstance(value, Word) and value in ("True", "False")


def _any(value: Any) -> bool:
    return True


LEVEL: Check = lambda v: v == -100 or _whole(0, 4)(v)  # noqa: E731
POLICY = _word("enabled", "disabled", "allowed")
COUNT = _whole(1)
LOSSES = _words("l2rel", "L2REL", "ce", "l2", "cosine")
META = ("ssd", "yolov5", "yolov6", "yolov8", "yolox", "centernet", "yolov5_seg")
CONVERSIONS = _word(
    "bgr_to_rgb", "yuv_to_rgb", "nv12_to_rgb", "nv12_to_hailo_yuv", "yuy2_to_hailo_yuv",
    "tf_rgbx_to_hailo_rgb", "yuy2_to_rgb", "i420_to_hailo_yuv",
)  # fmt: skip
MODES = _word(
    "a8_w8", "a8_w4", "a16_w16", "a16_w8", "a16_w4", "a16_w8_a16", "a8_w8_a16", "a8_w4_a8",
    "a8_w4_a16",
)  # fmt: skip

# feature: its fields
CONFIG: Mapping[str, Mapping[str, Check]] = {
    "calibration": {"batch_size": COUNT, "calibset_size": COUNT},
    "checker_cfg": {"policy": POLICY, "batch_size": COUNT, "dataset_size": COUNT,
                    "analyze_mode": _word("simple", "advanced"), "batch_norm_checker": _truth},
    "globals": {"output_encoding_vector": POLICY, "multiproc_policy": POLICY, "output_16bit": POLICY},
    "negative_exponent": {"layers": _layers, "rank": _whole(0)},
    "compression_params": {"auto_4bit_weights_ratio": _part, "auto_16bit_weights_ratio": _part},
}  # fmt: skip
BEFORE: Mapping[str, Mapping[str, Check]] = {
    "equalization": {"policy": POLICY, "layers": _layers},
    "activation_clipping": {"layers": _layers, "mode": _word("disabled", "manual", "percentile", "percentile_force"),
                            "clipping_values": _numbers, "recollect_stats": _truth},
    "weights_clipping": {"layers": _layers, "mode": _word("disabled", "manual", "percentile", "mmse", "mmse_if4b"),
                         "clipping_values": _numbers},
    "ew_add_fusing": {"policy": POLICY, "layers": _layers},
    "layer_norm_decomposition": {"policy": POLICY, "layers": _layers, "mode": _any, "equalization": POLICY, "token_equalization": POLICY},
    "matmul_correction": {"layers": _layers, "correction_type": _any},
    "matmul_equalization": {"policy": POLICY, "layers": _layers, "matmul_correction_layers": _layers},
    "global_avgpool_reduction": {"policy": POLICY, "layers": _layers, "division_factors": _numbers},
    "se_optimization": {"method": _word("tse"), "mode": _any, "count": COUNT, "tile_height": COUNT, "layers": _layers},
    "decompose_conv_factor": {"policy": POLICY, "layers": _layers, "factor": _number},
    "resolution_reduction": {"policy": POLICY, "shape": _numbers, "interpolation": _any},
}  # fmt: skip
AFTER: Mapping[str, Mapping[str, Check]] = {
    "finetune": {"policy": POLICY, "dataset_size": COUNT, "epochs": COUNT, "batch_size": COUNT,
                 "learning_rate": _number, "loss_layer_names": _layers, "loss_types": LOSSES,
                 "loss_factors": _numbers, "warmup_epochs": _whole(0), "meta_arch": _word(*META, "yolo"),
                 "train_scales": _truth, "def_loss_type": _any},
    "bias_correction": {"policy": POLICY, "layers": _layers},
    "adaround": {"policy": POLICY, "epochs": COUNT, "batch_size": COUNT, "dataset_size": COUNT,
                 "mode": _word("train_4bit", "train_all"), "layers": _layers},
    "train_encoding": {"policy": POLICY, "layers": _layers},
    "mix_precision_search": {"policy": POLICY},
}  # fmt: skip
FEATURES = {
    "model_optimization_config": (CONFIG, "MOConfigCommand"),
    "pre_quantization_optimization": (BEFORE, "PreQuantizationFeature"),
    "post_quantization_optimization": (AFTER, "PostQuantizationFeature"),
}


@dataclass(frozen=True)
class Shape:
    """What a command takes: how many names at its left, values in order, and fields."""

    left: int | None  # None: as many as one likes, at least one
    values: tuple[tuple[Check, ...], ...]  # the ways to give values in order
    fields: Mapping[str, Check]
    required: tuple[str, ...] = ()


ACTIVATION = _word("sigmoid", "linear", "tanh", "relu")
COMMANDS: Mapping[str, Shape] = {
    "normalization": Shape(None, ((_numbers, _numbers), (_numbers, _numbers, _layer)), {}),
    "input_conversion": Shape(
        None, ((CONVERSIONS,), (_layer, CONVERSIONS)), {"emulator_support": _truth}
    ),
    "resize": Shape(
        None, ((), (_layer,)), {"resize_shapes": _numbers, "engine": _any}, ("resize_shapes",)
    ),
    "logits_layer": Shape(
        1, ((_layer, _word("softmax", "argmax"), _whole(-1), _word("cpu")),), {}
    ),
    "transpose": Shape(0, ((),), {}),
    "set_seed": Shape(0, ((),), {"seed": _whole(0)}, ("seed",)),
    "remove_node": Shape(0, ((_layer,),), {}),
    "change_output_activation": Shape(0, ((ACTIVATION,), (_layer, ACTIVATION)), {}),
    "nms_postprocess": Shape(
        0,
        ((), (_text,), (_text, _word(*META)), (_word(*META),)),
        {
            "meta_arch": _word(*META), "engine": _word("cpu", "nn_core", "auto"),
            "bbox_decoding_only": _truth, "classes": COUNT, "config_path": _text,
            "nms_scores_th": _part, "nms_iou_th": _part, "image_dims": _numbers,
            "max_proposals_per_class": COUNT,
        },
    ),
    "model_optimization_flavor": Shape(
        0,
        ((),),
        {"optimization_level": LEVEL, "compression_level": _whole(0, 5), "batch_size": COUNT},
    ),
    "quantization_param": Shape(
        0,
        ((_layers,),),
        {
            "precision_mode": MODES, "bias_mode": _word("single_scale_decomposition", "double_scale_initialization", "double_scale_decomposition"),
            "activation_fit": POLICY, "force_range_in": _numbers, "force_range_out": _numbers,
            "force_range_index": _whole(0), "weight_group_size": COUNT,
            "max_elementwise_feed_repeat": COUNT,
        },
    ),
    "performance_param": Shape(
        0,
        ((),),
        {
            "compiler_optimization_level": lambda v: v in (0, 1, 2) or _word("max")(v),
            "optimize_for_batch": COUNT, "optimize_for_power": _truth, "fps": _number,
        },
    ),
    "resources_param": Shape(
        0,
        ((),),
        {"strategy": _word("greedy"), **{f"max_{n}utilization": _share for n in (
            "control_", "compute_", "compute_16bit_", "memory_", "input_aligner_", "apu_", "")}},
    ),
    "context_switch_param": Shape(
        0,
        ((),),
        {
            "mode": _word("enabled", "allowed", "disabled"), "max_utilization": _part,
            **{f"max_{n}_utilization": _part for n in ("control", "compute", "memory")},
            "goal_network_group_fps": _number,
        },
    ),
    "allocator_param": Shape(
        0,
        ((),),
        {
            "width_splitter_defuse": POLICY, "timeout": _any, "cluster_timeout": _any,
            "automatic_ddr": _any, "seed": _whole(0), "automatic_reshapes": POLICY,
            "enable_muxer": _truth, "merge_min_layer_utilization": _number,
        },
    ),
    "platform_param": Shape(
        0, ((),), {"hints": _words("low_pcie_bandwidth"), "targets": _words("ethernet"), "hef_version": COUNT}
    ),
    "hef_param": Shape(
        0, ((),), {"should_use_sequencer": _any, "params_load_time_compression": _any}
    ),
    "network_group": Shape(0, ((_layers,),), {}),
}  # fmt: skip


def check(command: Command) -> None:
    """Refuse a command, a value or a field that is not known."""
    if command.name in FEATURES:
        _check_feature(command)
        return
    shape = COMMANDS.get(command.name)
    if shape is None:
        raise BackendScriptParserException(
            f"Parsing failed at:\n>!<{command.line}\nUnknown command {command.name}"
        )
    enough = len(command.left) == shape.left if shape.left is not None else bool(command.left)
    if not enough or not any(_fits(v, command.values) for v in shape.values):
        raise BackendScriptParserException(f"Parsing failed at:\n>!<{command.line}")
    if missing := [f for f in shape.required if f not in command.fields]:
        raise BackendScriptParserException(f"{command.name} needs {missing}. {_FAILED}")
    _check_fields(command, shape.fields)


_FAILED = "Model script parsing failed"


def _check_feature(command: Command) -> None:
    features, kind = FEATURES[command.name]
    first = command.values[0] if command.values else None
    if command.left or len(command.values) != 1 or not isinstance(first, Word):
        raise BackendScriptParserException(f"Parsing failed at:\n>!<{command.line}")
    if first not in features:
        raise BackendScriptParserException(f"'{first}' is not a valid {kind}. {_FAILED}")
    _check_fields(command, features[first])


def _check_fields(command: Command, known: Mapping[str, Check]) -> None:
    for name, value in command.fields.items():
        if name not in known:
            raise BackendScriptParserException(
                f"No argument named {name} in {command.name}. {_FAILED}"
            )
        if not known[name](value):
            raise BackendScriptParserException(
                f"{_plain(value)} is not a valid value of {name} in {command.name}. {_FAILED}"
            )


def _fits(checks: Sequence[Check], values: Sequence[Any]) -> bool:
    return len(checks) == len(values) and all(c(v) for c, v in zip(checks, values, strict=True))


def _plain(value: Any) -> str:
    return str(value) if not isinstance(value, list) else f"[{', '.join(map(str, value))}]"
