"""What a model script asks of one network, checked against it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import (
    AllocatorScriptParserException,
    BackendScriptParserException,
    UnsupportedMetaArchError,
)
from hailo_sdk_client.tools.core_postprocess.nms_postprocess import NMSConfigPostprocessException
from hailo_sdk_common.hailo_nn.exceptions import HailoNNException

from hailo_standin.network import Layer
from hailo_standin.ops import Decoder, PostProcess
from hailo_standin.parse import Parsed
from hailo_standin.script import Command, Glob, Text

COMMON = {"nms_scores_th", "nms_iou_th", "image_dims", "max_proposals_per_class", "classes",
          "bbox_decoders"}  # fmt: skip
OPTIONAL = {"background_removal", "background_removal_index"}
# by architecture: what a configuration needs beyond the common, what it may have, its decoders
SCHEMES: Mapping[str, tuple[set[str], set[str], set[str]]] = {
    "yolov8": ({"regression_length"}, set(), {"name", "stride", "reg_layer", "cls_layer"}),
    "yolov6": (set(), set(), {"name", "stride", "reg_layer", "cls_layer"}),
    "yolox": ({"number_of_detection_heads"}, set(),
              {"name", "stride", "reg_layer", "cls_layer", "objectness_layer"}),
    "yolov5": ({"background_removal"}, {"input_division_factor"},
               {"name", "stride", "w", "h", "encoded_layer"}),
}  # fmt: skip
ROLES = {"yolov8": ("reg_layer", "cls_layer"), "yolov6": ("reg_layer", "cls_layer"),
         "yolox": ("reg_layer", "cls_layer", "objectness_layer"), "yolov5": ("encoded_layer",)}  # fmt: skip
HERE = ("yolov8", "yolox", "yolov5")  # what HailoRT decodes on the host, and the stand-in can


@dataclass(frozen=True)
class Finetune:
    """How the network is to be trained after quantization."""

    policy: str = ""
    dataset: int = 1024
    epochs: int = 4


@dataclass(frozen=True)
class Recipe:
    """Everything in a script that changes what comes out. Layers are names without scope."""

    normalization: tuple[str, tuple[float, ...], tuple[float, ...]] | None = None
    conversion: str = ""
    activations: Mapping[str, str] = field(default_factory=dict)
    post: PostProcess | None = None
    post_name: str = ""
    boxes_only: bool = False
    config: str = ""  # the JSON of the post-process
    level: int | None = None
    compression: int | None = None
    calibset: int | None = None
    finetune: Finetune = field(default_factory=Finetune)
    bias_correction: str = ""
    adaround: str = ""
    noise: str = ""
    wide: frozenset[str] = frozenset()
    four: frozenset[str] = frozenset()
    forced: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    best: bool = False  # compiler_optimization_level=max
    resources: bool = False
    contexts: str = "allowed"
    ratio: float = 0.0  # of the weights in 4 bits
    unplayed: tuple[str, ...] = ()  # commands that the compiler takes and the stand-in cannot play


@dataclass(frozen=True)
class Files:
    """Where a script's files are: in its folder, or kept in an archive."""

    folder: Path = Path()
    kept: str = ""  # the configuration of the post-process


def understand(commands: Sequence[Command], parsed: Parsed, files: Files) -> Recipe:
    """Return what commands ask of a network.

    Raises:
        HailoNNException: a layer that there is not.
        AllocatorScriptParserException: a post-process that the network cannot have.
    """
    recipe = Recipe()
    for command in commands:
        recipe = _TAKE.get(command.name, _plain)(recipe, command, parsed, files)
    return recipe


def _find(name: str, parsed: Parsed) -> Layer:
    layer = parsed.network.layer(name)
    if layer is None:
        raise HailoNNException(f"The layer named {name} doesn't exist in the HN")
    return layer


def _find_all(value: Any, parsed: Parsed) -> list[Layer]:
    if isinstance(value, Glob):
        patterns = [p.strip().removeprefix(f"{parsed.network.name}/") for p in value.split(",")]
        found = [x for x in parsed.network.layers if any(fnmatchcase(x.name, p) for p in patterns)]
        if not found:
            raise HailoNNException(f"The layer named {value} doesn't exist in the HN")
        return found
    return [_find(v, parsed) for v in (value if isinstance(value, list) else [value])]


def _plain(recipe: Recipe, command: Command, parsed: Parsed, _: Files) -> Recipe:
    """Take a command that changes nothing here, but may name layers."""
    for name in ("layers", "loss_layer_names"):
        if name in command.fields:
            _find_all(command.fields[name], parsed)
    return recipe


def _unplayed(recipe: Recipe, command: Command, parsed: Parsed, files: Files) -> Recipe:
    return replace(
        _plain(recipe, command, parsed, files), unplayed=(*recipe.unplayed, command.name)
    )


def _entry(command: Command, at: int, parsed: Parsed) -> None:
    if len(command.values) > at and _find(command.values[at], parsed).kind != "input_layer":
        raise AllocatorScriptParserException(f"{command.values[at]} is not an input layer")


def _left(command: Command, parsed: Parsed) -> str:
    name = command.left[0].removeprefix(f"{parsed.network.name}/")
    if len(command.left) > 1 or "/" in name or parsed.network.layer(name) is not None:
        raise AllocatorScriptParserException(
            f"{command.name} cannot make {', '.join(command.left)}"
        )
    return name


def _normalization(recipe: Recipe, command: Command, parsed: Parsed, _: Files) -> Recipe:
    _entry(command, 2, parsed)
    mean, std = (tuple(map(float, v)) for v in command.values[:2])
    if {len(mean), len(std)} != {parsed.network.shape(parsed.network.input)[2]} or 0 in std:
        raise AllocatorScriptParserException(
            f"normalization needs a mean and a std for each channel, not {mean}, {std}"
        )
    if recipe.normalization:
        raise AllocatorScriptParserException("The input is normalized already")
    return replace(recipe, normalization=(_left(command, parsed), mean, std))


def _conversion(recipe: Recipe, command: Command, parsed: Parsed, files: Files) -> Recipe:
    if command.values[-1] != "bgr_to_rgb":
        return _unplayed(recipe, command, parsed, files)
    if len(command.values) == 2:
        _entry(command, 0, parsed)
    return replace(recipe, conversion=_left(command, parsed))


def _activation(recipe: Recipe, command: Command, parsed: Parsed, _: Files) -> Recipe:
    last = list(parsed.network.outputs)
    if len(command.values) == 1:
        layers = last
    else:
        layers = [_find(command.values[0], parsed)]
        if layers[0].kind == "output_layer" or layers[0] not in last:
            raise AllocatorScriptParserException(
                f"The layer {command.values[0]} is not one before an output"
            )
    made = {x.name: str(command.values[-1]) for x in layers}
    return replace(recipe, activations={**recipe.activations, **made})


def _flavor(recipe: Recipe, command: Command, _: Parsed, __: Files) -> Recipe:
    given = command.fields
    return replace(
        recipe,
        level=given.get("optimization_level", recipe.level),
        compression=given.get("compression_level", recipe.compression),
    )


def _config(recipe: Recipe, command: Command, parsed: Parsed, files: Files) -> Recipe:
    recipe = _plain(recipe, command, parsed, files)
    given, feature = command.fields, command.values[0]
    if feature == "calibration":
        return replace(recipe, calibset=given.get("calibset_size", recipe.calibset))
    if feature == "checker_cfg":
        return replace(recipe, noise=str(given.get("policy", "enabled")))
    if feature == "compression_params":
        return replace(recipe, ratio=float(given.get("auto_4bit_weights_ratio", 0)))
    return recipe


def _after(recipe: Recipe, command: Command, parsed: Parsed, files: Files) -> Recipe:
    recipe = _plain(recipe, command, parsed, files)
    given, feature = command.fields, command.values[0]
    policy = str(given.get("policy", "enabled"))
    if feature == "finetune":
        made = Finetune(policy, given.get("dataset_size", 1024), given.get("epochs", 4))
        return replace(recipe, finetune=made)
    if feature == "bias_correction":
        return replace(recipe, bias_correction=policy)
    if feature == "adaround":
        return replace(recipe, adaround=policy)
    return recipe


def _quantization(recipe: Recipe, command: Command, parsed: Parsed, _: Files) -> Recipe:
    layers = _find_all(command.values[0], parsed)
    before = {x.inputs[0].name if x.kind == "output_layer" else x.name for x in layers}
    mode = str(command.fields.get("precision_mode", ""))
    if mode in ("a16_w16", "a16_w8", "a16_w4", "a8_w8_a16", "a8_w4_a16"):
        recipe = replace(recipe, wide=recipe.wide | before)
    if mode in ("a8_w4", "a8_w4_a8", "a16_w4", "a8_w4_a16"):
        recipe = replace(recipe, four=recipe.four | before)
    if "force_range_out" in command.fields:
        low, high = command.fields["force_range_out"]
        made = dict.fromkeys(before, (float(low), float(high)))
        recipe = replace(recipe, forced={**recipe.forced, **made})
    if "force_range_in" in command.fields:
        recipe = replace(recipe, unplayed=(*recipe.unplayed, "force_range_in"))
    return recipe


def _performance(recipe: Recipe, command: Command, _: Parsed, __: Files) -> Recipe:
    best = command.fields.get("compiler_optimization_level") in ("max", 2)
    return replace(recipe, best=best or recipe.best)


def _resources(recipe: Recipe, _: Command, __: Parsed, ___: Files) -> Recipe:
    return replace(recipe, resources=True)


def _contexts(recipe: Recipe, command: Command, _: Parsed, __: Files) -> Recipe:
    return replace(recipe, contexts=str(command.fields.get("mode", recipe.contexts)))


# The post-process


def _nms(recipe: Recipe, command: Command, parsed: Parsed, files: Files) -> Recipe:
    if recipe.post is not None:
        raise AllocatorScriptParserException("There is a post-process already")
    given = dict(command.fields)
    path = next((v for v in command.values if isinstance(v, Text)), given.pop("config_path", None))
    kind = next((str(v) for v in command.values if not isinstance(v, Text)), "")
    kind = kind or str(given.pop("meta_arch", ""))
    given.pop("meta_arch", None)
    engine = str(given.pop("engine", "auto"))
    boxes_only = given.pop("bbox_decoding_only", "False") == "True"
    if path is None:
        config = _inferred(kind, parsed, given)
    elif given:
        raise BackendScriptParserException(
            f"Parsing failed at:\n>!<{command.line}\na configuration file and {list(given)}"
        )
    else:
        config = json.loads(files.kept) if files.kept else _loaded(files.folder / path)
    if kind not in HERE or (engine == "nn_core" and kind == "yolov8"):
        where = "on chip" if engine == "nn_core" else "by the stand-in"
        raise UnsupportedMetaArchError(
            f"The specified meta architecture {kind} cannot be run {where}"
        )
    if engine == "nn_core":
        return replace(recipe, unplayed=(*recipe.unplayed, "nms_postprocess on the chip"))
    return replace(
        recipe,
        post=_post(kind, config, parsed),
        post_name=f"{kind}_nms_postprocess",
        boxes_only=boxes_only,
        config=json.dumps(config),
    )


def _loaded(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AllocatorScriptParserException(f"Post-process config file isn't found in {path}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _inferred(kind: str, parsed: Parsed, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration for a head that is known and is cut where it begins."""
    seen = parsed.structure
    whole = seen is not None and seen.kind == kind and seen.ends == parsed.ends
    if seen is None or not whole or kind not in ("yolov8", "yolox"):
        raise AllocatorScriptParserException(
            "Cannot infer bbox conv layers automatically. Please specify the bbox layer in the "
            "json configuration file."
        )
    network, count = parsed.network, len(ROLES[kind])
    height, width, _ = network.shape(network.input)
    groups = [network.outputs[i : i + count] for i in range(0, len(network.outputs), count)]
    decoders = [
        {"name": f"bbox_decoder{i}", "stride": height // network.shape(group[0])[0],
         **{role: network.scoped(x) for role, x in zip(ROLES[kind], group, strict=True)}}
        for i, group in enumerate(groups, 1)
    ]  # fmt: skip
    more = {"regression_length": 16} if kind == "yolov8" else {"number_of_detection_heads": 3}
    return {
        "nms_scores_th": 0.3, "nms_iou_th": 0.6, "image_dims": [height, width],
        "max_proposals_per_class": 100, "classes": network.shape(groups[0][1])[2], **more,
        "bbox_decoders": decoders, **given,
    }  # fmt: skip


def _post(kind: str, config: Mapping[str, Any], parsed: Parsed) -> PostProcess:
    needed, allowed, fields = SCHEMES[kind]
    _keys(config, COMMON | needed, COMMON | needed | allowed | OPTIONAL)
    decoders = []
    for entry in config["bbox_decoders"]:
        if "combined_layer" in entry:
            raise NotImplementedError("not known: how the compiler splits a combined layer")
        _keys(entry, fields, fields)
        layers = tuple(_last(entry[role], parsed) for role in ROLES[kind])
        anchors = tuple(zip(entry.get("w", ()), entry.get("h", ()), strict=True))
        decoders.append(Decoder(layers, int(entry["stride"]), anchors))
    used = [x for d in decoders for x in d.layers]
    if sorted(used) != sorted(x.name for x in parsed.network.outputs):
        raise NMSConfigPostprocessException(
            f"The post-process takes {used}, the network ends in "
            f"{[x.name for x in parsed.network.outputs]}"
        )
    height, width = config["image_dims"]
    return PostProcess(
        kind,
        int(config["classes"]),
        (float(height), float(width)),
        tuple(decoders),
        float(config["nms_scores_th"]),
        float(config["nms_iou_th"]),
        int(config["max_proposals_per_class"]),
        int(config.get("regression_length", 16)),
    )


def _keys(given: Mapping[str, Any], needed: set[str], known: set[str]) -> None:
    if missing := needed - set(given):
        raise NMSConfigPostprocessException(f"The configuration lacks {sorted(missing)}")
    if unknown := set(given) - known:
        raise NMSConfigPostprocessException(f"The configuration has unknown {sorted(unknown)}")


def _last(name: str, parsed: Parsed) -> str:
    """Return the name of a convolution before an output."""
    layer = _find(name, parsed)
    if layer.kind not in ("conv", "dw"):
        raise AllocatorScriptParserException(
            f"Error in the last layers of the model, expected conv but found {layer.kind} layer."
        )
    readers = [x for x in parsed.network.layers if layer in x.inputs]
    if [x.kind for x in readers] != ["output_layer"]:
        raise NMSConfigPostprocessException(
            f"The layer {parsed.network.scoped(layer)} doesn't have one output layer"
        )
    return layer.name


_TAKE = {
    "normalization": _normalization, "input_conversion": _conversion, "resize": _unplayed,
    "logits_layer": _unplayed, "transpose": _unplayed, "remove_node": _unplayed,
    "network_group": _unplayed, "change_output_activation": _activation, "nms_postprocess": _nms,
    "model_optimization_flavor": _flavor, "model_optimization_config": _config,
    "post_quantization_optimization": _after, "quantization_param": _quantization,
    "performance_param": _performance, "resources_param": _resources,
    "context_switch_param": _contexts,
}  # fmt: skip
