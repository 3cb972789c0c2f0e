"""What the compiler is told at each optimization level, before it has named the layers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from onchip.spec import HeadSpec, Verdict
from onchip.targets.hailo import nms
from onchip.targets.hailo.commands import Command
from onchip.targets.hailo.guard import Asked
from onchip.targets.hailo.nms import Engine, activated, end_nodes
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.hailo.script import ENDS, Effort, Script, effective, engine, script
from onchip.targets.target import Task

FOUND = "nms"  # the tensor of a network that suppresses by itself
# commands that only the last stage reads: what was quantized under others still stands
LAST = frozenset(
    {"performance_param", "resources_param", "context_switch_param", "allocator_param"}
)


@dataclass(frozen=True)
class Order:
    """One way to build: the end nodes, the script, and how the program's end will read.

    `boxes` says where they are made; None is by onchip.
    """

    chip: str
    ends: tuple[str, ...]
    script: Script
    effort: Effort
    options: HailoOptions
    input_size: tuple[int, int]
    float_head: HeadSpec
    boxes: Engine | None = None

    @property
    def level(self) -> int:
        """The optimization level that is asked for."""
        return self.effort.asked

    @property
    def head(self) -> HeadSpec:
        """How the program's end reads."""
        return self.float_head.found(FOUND) if self.boxes else activated(self.float_head)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What is worth knowing before anything runs."""
        return (*self.effort.verdicts, *self.lasting)

    @property
    def lasting(self) -> tuple[Verdict, ...]:
        """What of that is true on any machine, whatever it has."""
        told = nms.verdicts(self.float_head, self.chip, self.boxes or "none")
        return (*self.script.verdicts, *told)

    def nms_file(self, layers: Mapping[str, str]) -> str:
        """The text of the file that describes the boxes; empty where onchip decodes them."""
        if self.boxes is None:
            return ""
        made = nms.config(
            self.float_head,
            self.input_size,
            layers,
            chip=self.chip,
            engine=self.boxes,
            score=self.options.score,
            iou=self.options.iou,
            most=self.options.most,
        )
        return made.json()

    def asked(self, layers: Mapping[str, str]) -> Asked:
        """What the compiler's log is held against."""
        return Asked(
            level=self.effort.asked,
            calibration=self.effort.calibset,
            compression=self.effort.compression,
            wide=tuple(layers[n] for n in self._wide if n in layers),
            wide_ends=any(ENDS in c.arguments for c in self._precisions),
            one_context=self.options.contexts == "single",
        )

    @property
    def _wide(self) -> list[str]:
        """The nodes that the script gives 16 bits: also ends that it raises by itself."""
        return [n for c in self._precisions for n in c.nodes]

    @property
    def _precisions(self) -> list[Command]:
        return [c for c in self.script.commands if c.verb == "quantization_param"]

    def key(self, *parts: bytes) -> str:
        """Digest what the quantized network is made of; `parts` are the graph and the photos."""
        lines = [c for c in self.script.commands if c.verb not in LAST]
        nodes = {n: n for n in (*self.ends, *(n for c in lines for n in c.nodes))}
        digest = hashlib.sha256()
        for part in (*parts, "".join(c.text(nodes) for c in lines).encode()):
            digest.update(hashlib.sha256(part).digest())
        digest.update(msgspec.json.encode((self.chip, self.ends, self.nms_file(nodes))))
        return digest.hexdigest()


def orders(
    chip: str,
    task: Task,
    options: HailoOptions,
    photos: int,
    *,
    gpu: bool,
    wide: Sequence[str] = (),
) -> list[Order]:
    """Return what to build, one for each level that is asked for.

    Args:
        chip: for which chip.
        task: the network.
        options: what the user decided.
        photos: how many there are to calibrate on.
        gpu: whether the compiler will find a free one.
        wide: ONNX nodes whose output shall have 16 bits.
    """
    weights = sum(_size(t.dims) for t in task.model.proto.graph.initializer)
    made = []
    for level in options.levels() or (None,):
        effort = effective(options, photos, gpu=gpu, asked=level)
        commands = script(
            task.head,
            task.input,
            options,
            effort,
            chip=chip,
            parameters=weights,
            wide=wide,
            extra=options.script,
        )
        made.append(
            Order(
                chip=chip,
                ends=end_nodes(task.head),
                script=commands,
                effort=effort,
                options=options,
                input_size=(task.input.width, task.input.height),
                float_head=task.head,
                boxes=engine(options, task.head, chip),
            )
        )
    return made


def _size(dims: Sequence[int]) -> int:
    count = 1
    for n in dims:
        count *= n
    return count
