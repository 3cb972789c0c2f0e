"""The model script (.alls) that the compiler is given, as a value: which commands, and why.

Every command is written as the scripts of Hailo's model zoo write it. Layers are named by their
ONNX nodes until the compiler has translated the network and its own names are known.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from onchip.errors import InputError, UnsupportedError
from onchip.spec import HeadSpec, InputSpec, Verdict
from onchip.targets.hailo.commands import NMS_FILE as NMS_FILE
from onchip.targets.hailo.commands import Command, Layers, NmsFile, parsed
from onchip.targets.hailo.nms import WIDE, Engine, end_nodes, sigmoids, support
from onchip.targets.hailo.options import HailoOptions

ENOUGH = 1024  # photos: with fewer the compiler reduces its optimization level
DEFAULT = 64  # photos that it calibrates on where the script does not say how many
SMALL = 4e6  # parameters up to which the zoo leaves off splitting layers by width
ENDS = "{output_layer*}"  # what the compiler calls the network's own outputs
SIXTEEN = "precision_mode=a16_w16"
RESOURCES = ("control", "compute", "compute_16bit", "memory", "input_aligner", "apu")

# Commands that onchip alone writes, since the rest of the build goes by them, and what to say.
OURS = {
    "change_output_activation": "onchip adds the sigmoids that the head needs",
    "input_conversion": "say it with --color and -O rgb=true",
    "model_optimization_flavor": "say it with -O level= and -O compression=",
    "nms_postprocess": "say it with -O nms=, score=, iou= and most=",
    "normalization": "say it with --mean and --std",
    "resize": "onchip fits photos to the network itself: export with the size that you want",
    "resize_input": "onchip fits photos to the network itself: export with the size that you want",
    "transpose": "onchip feeds the network as it was exported",
}


class Script(Struct, frozen=True, kw_only=True):
    """All commands in their order, and what is worth telling about them."""

    commands: tuple[Command, ...]
    verdicts: tuple[Verdict, ...] = ()

    def text(self, layers: Mapping[str, str], nms_file: str = NMS_FILE) -> str:
        """The file's text.

        Args:
            layers: ONNX node to Hailo's layer.
            nms_file: where the NMS file lies, as the compiler shall find it.

        Raises:
            UnsupportedError: the compiler has no layer for the end of a score.
        """
        lines = []
        for command in self.commands:
            nodes = command.nodes
            if not nodes or any(n in layers for n in nodes):
                lines.append(command.text(layers, nms_file))
            elif command.verb == "change_output_activation":
                raise UnsupportedError(
                    f"the compiler has no layer of its own for {nodes[0]}, which gives scores",
                    "without a sigmoid there every score would be wrong; cut the network "
                    "elsewhere: --end-nodes",
                )
        return "".join(f"{line}\n" for line in lines)

    def missing(self, layers: Mapping[str, str]) -> tuple[str, ...]:
        """The nodes that it names and that have no layer."""
        return tuple(n for c in self.commands for n in c.nodes if n not in layers)


class Effort(Struct, frozen=True, kw_only=True):
    """What quantization will really do, given the photos and the machine.

    `asked` is the optimization level that the script names, `level` what will become of it;
    `calibset` how many photos set the ranges. `finetune` says whether the script forces that they
    also train the quantized network, or forbids it, or leaves it to the level.
    """

    asked: int
    level: int
    calibset: int
    finetune: Literal["auto", "on", "off"] = "auto"
    compression: int = 0
    verdicts: tuple[Verdict, ...] = ()


def effective(options: HailoOptions, photos: int, *, gpu: bool, asked: int | None = None) -> Effort:
    """Return what the compiler will make of a level, which it reduces in passing.

    Args:
        options: what the user decided.
        photos: how many photos there are to calibrate on.
        gpu: whether the compiler will find a free NVIDIA GPU.
        asked: one of `options.levels()`; None is the highest that is not reduced.

    Source: the compiler's own log lines, as public logs of 3.27 to 3.33 have them.
    """
    highest = 0 if not gpu else 1 if photos < ENOUGH else 2
    wanted = highest if asked is None else asked
    reduced = wanted > highest and highest < 2
    level = highest if reduced else wanted
    compression = options.compression if level > 1 else 0
    found: list[Verdict] = []
    if reduced:
        found.append(_reduced(wanted, highest, photos, gpu=gpu))
    elif level < 2:
        found.append(_low(level, photos, gpu=gpu))
    if options.compression > compression:
        text = f"compression {options.compression} becomes 0: the compiler packs weights into "
        text += "4 bits at level 2 and above only"
        found.append(Verdict(code="compression_reduced", message=text, level="warning"))
    found += _about_finetune(level, options.finetune, gpu=gpu)
    found += _about_photos(photos)
    return Effort(
        asked=wanted,
        level=level,
        calibset=photos,
        finetune=options.finetune,
        compression=compression,
        verdicts=tuple(found),
    )


def _why(photos: int, *, gpu: bool) -> str:
    reasons = [] if gpu else ["there is no free NVIDIA GPU"]
    if photos < ENOUGH:
        count = f"there are {photos} photos, not {ENOUGH}"
        reasons.append(count if photos else "no photos are given")
    return " and ".join(reasons)


def _reduced(wanted: int, level: int, photos: int, *, gpu: bool) -> Verdict:
    text = (
        f"the compiler will reduce level {wanted} to {level}, since {_why(photos, gpu=gpu)}: "
        "leave -O level away, or force what level 2 does with -O finetune=on"
    )
    return Verdict(code="level_reduced", message=text, level="warning")


def _low(level: int, photos: int, *, gpu: bool) -> Verdict:
    return Verdict(
        code="level",
        message=f"optimization level {level}, since {_why(photos, gpu=gpu)}",
    )


def _about_finetune(level: int, finetune: str, *, gpu: bool) -> Iterator[Verdict]:
    if finetune == "auto" and level < 2:
        text = (
            "without fine-tuning, which comes with level 2, a published YOLOv8 build fell from "
            "0.548 to 0.069 mAP50 with sound scores; with it, on the same 128 photos, to 0.529: "
            "-O finetune=on"
        )
        yield Verdict(code="no_finetune", message=text, level="warning")
    if finetune == "on" and not gpu:
        text = "fine-tuning without a GPU takes long: 43 minutes in a public log"
        yield Verdict(code="finetune_slow", message=text)
    if finetune == "off" and level >= 2:
        text = f"level {level} without its fine-tuning"
        yield Verdict(code="finetune_off", message=text, level="warning")


def _about_photos(photos: int) -> Iterator[Verdict]:
    if not photos:
        text = f"no photos were given: {ENOUGH} of the camera's own are what the compiler wants"
        yield Verdict(code="no_photos", message=text, level="warning")
    elif photos < DEFAULT:
        text = f"{photos} photos are few to set ranges by: the compiler's own default is {DEFAULT}"
        yield Verdict(code="few_photos", message=text, level="warning")


def engine(options: HailoOptions, head: HeadSpec, chip: str) -> Engine | None:
    """Return where boxes are made: on the host's CPU, on the chip, or by onchip (None).

    Raises:
        UnsupportedError: not where the user wants it.
    """
    if options.nms == "none":
        return None
    known = support(head, chip)
    if options.nms == "auto":
        return "cpu" if "cpu" in known.engines else None
    if options.nms not in known.engines:
        allowed = ", ".join((*known.engines, "none"))
        raise UnsupportedError(
            f"-O nms={options.nms} is not for this head on {chip}"
            + (f": {known.reason}" if known.reason else ""),
            f"allowed are {allowed}",
        )
    return options.nms


def script(
    head: HeadSpec,
    spec: InputSpec,
    options: HailoOptions,
    effort: Effort,
    *,
    chip: str,
    parameters: int = 0,
    wide: Sequence[str] = (),
    extra: str = "",
) -> Script:
    """Return the model script of a build.

    Args:
        head: the head of the cut network.
        spec: what the float network expects.
        options: what the user decided.
        effort: what quantization will do, from `effective`.
        chip: for which chip.
        parameters: how many weights the network has; 0 is unknown.
        wide: ONNX nodes of layers whose output shall have 16 bits.
        extra: the user's own lines.

    Raises:
        InputError: the user's lines do not read, or contradict the options.
        UnsupportedError: boxes cannot be made where the user wants it.
    """
    place = engine(options, head, chip)
    commands = [
        *_input(spec, options),
        *_activations(head),
        *_optimization(effort, parameters),
        *_precision(head, wide, nms=place is not None),
        *_nms(head, chip, place),
        *_compilation(head, options, parameters),
    ]
    own = tuple(parsed(extra))
    _refuse(own)
    replaced = [c for c in commands if any(mine.replaces(c) for mine in own)]
    return Script(
        commands=(*(c for c in commands if c not in replaced), *own),
        verdicts=tuple(_replaced(c) for c in replaced),
    )


def _input(spec: InputSpec, options: HailoOptions) -> Iterator[Command]:
    """Normalization in the network's own colour order: the chip swaps before it."""
    if any(spec.mean) or any(v != 1 for v in spec.std):
        numbers = tuple(f"[{', '.join(repr(float(v)) for v in x)}]" for x in (spec.mean, spec.std))
        yield Command(verb="normalization", arguments=numbers, makes="normalization1")
    if options.rgb and spec.color == "bgr":
        yield Command(verb="input_conversion", arguments=("bgr_to_rgb",), makes="input_conversion")


def _activations(head: HeadSpec) -> Iterator[Command]:
    nodes = sigmoids(head)
    if head.coding == "anchor" and nodes:
        yield Command(verb="change_output_activation", arguments=("sigmoid",))  # of all outputs
        return
    for node in nodes:
        yield Command(verb="change_output_activation", arguments=(Layers((node,)), "sigmoid"))


def _optimization(effort: Effort, parameters: int) -> Iterator[Command]:
    batch = f"batch_size={_batch(parameters)}"
    if effort.calibset:
        size = f"calibset_size={effort.calibset}"
        yield Command(verb="model_optimization_config", arguments=("calibration", batch, size))
    level = f"optimization_level={effort.asked}"
    compression = f"compression_level={effort.compression}"
    yield Command(verb="model_optimization_flavor", arguments=(level, compression))
    more: tuple[str, ...] = ()
    if effort.finetune == "off":
        more = ("policy=disabled",)
    elif effort.finetune == "on":
        count = (f"dataset_size={effort.calibset}",) if effort.calibset else ()
        more = ("policy=enabled", *count, batch)
    if more:
        yield Command(verb="post_quantization_optimization", arguments=("finetune", *more))


def _batch(parameters: int) -> int:
    """Photos at once, as the zoo has them by the size of the network."""
    return 8 if parameters < 10e6 else 4 if parameters < 20e6 else 2


def _precision(head: HeadSpec, wide: Sequence[str], *, nms: bool) -> Iterator[Command]:
    ends = end_nodes(head)
    at_end = [n for n in ends if n in wide]
    # HailoRT takes boxes and scores of one type only
    every = head.family in WIDE or (nms and bool(at_end)) or len(at_end) == len(ends)
    nodes = tuple(n for n in wide if n not in ends) + (ends if every else tuple(at_end))
    if nodes:
        yield Command(verb="quantization_param", arguments=(Layers(nodes), SIXTEEN))
    if every:
        yield Command(verb="quantization_param", arguments=(ENDS, SIXTEEN))


def _nms(head: HeadSpec, chip: str, place: Engine | None) -> Iterator[Command]:
    if place is not None:
        meta = f"meta_arch={support(head, chip).meta_arch}"
        arguments = (NmsFile(), meta, f"engine={place}")
        yield Command(verb="nms_postprocess", arguments=arguments)


def _compilation(head: HeadSpec, options: HailoOptions, parameters: int) -> Iterator[Command]:
    settings = {
        "compiler_optimization_level": options.performance,
        "optimize_for_batch": options.batch or "",
        "fps": options.fps or "",
    }
    for name, value in settings.items():
        if value != "":
            yield Command(verb="performance_param", arguments=(f"{name}={value}",))
    if options.utilization:
        limits = tuple(f"max_{r}_utilization={options.utilization:g}" for r in RESOURCES)
        yield Command(verb="resources_param", arguments=limits)
    if options.contexts != "auto":
        mode = "disabled" if options.contexts == "single" else "enabled"
        yield Command(verb="context_switch_param", arguments=(f"mode={mode}",))
    if head.coding == "dfl" and 0 < parameters < SMALL:
        yield Command(verb="allocator_param", arguments=("width_splitter_defuse=disabled",))


def _refuse(own: Sequence[Command]) -> None:
    """Refuse lines that would change what the rest of the build goes by."""
    for command in own:
        if command.verb in OURS:
            raise InputError(
                f"your script has {command.verb}, which onchip writes itself", OURS[command.verb]
            )
        if command.subject == "calibration" and "calibset_size" not in command.keywords:
            raise InputError(
                "your script sets calibration without calibset_size",
                f"without it the compiler takes {DEFAULT} photos, however many there are",
            )


def _replaced(command: Command) -> Verdict:
    text = f"your script's {command.verb} takes the place of onchip's: {command.text({})}"
    return Verdict(code="script_replaces", message=text)
