"""A plan becomes a .tflite file: every tensor with the plan's own scale, channels last.

Between the pixels and the head there are integers only, unless the plan keeps something in float:
then a DEQUANTIZE stands before it and a QUANTIZE behind.
"""

from collections.abc import Callable, Sequence

from onchip.quantize.regions import CLAMPS, divide
from onchip.targets.target import Job
from onchip.targets.tflite import lay
from onchip.targets.tflite.file import File
from onchip.targets.tflite.operators import add, enter
from onchip.targets.tflite.values import Step, Writer

Ends = Callable[[Writer], Sequence[int]]  # adds the outputs, and returns their numbers


def written(job: Job, ends: Ends | None = None) -> bytes:
    """Return the plan as a .tflite file.

    It takes the pixels as bytes, channels last. Its outputs are the head's tensors under their own
    names, as codes wherever the plan rounds them; those with a grid have their channels last. Or
    they are what `ends` adds.

    Raises:
        UnsupportedError: the format has no operator for a node.
    """
    writer = Writer(File(), job.network, job.plan)
    start = enter(writer, job.input)
    for step in _steps(job):
        add(writer, step)
        if not step.integer:
            for name in step.outputs:
                if name in writer.planned:
                    writer.values[name] = writer.rounded(writer.values[name], name)
    made = ends(writer) if ends else [_end(writer, o.name) for o in job.network.outputs]
    return writer.file.written([start.number], made)


def _steps(job: Job) -> list[Step]:
    """The nodes in their order; an activation that a layer computes by itself is part of it."""
    regions = divide(job.network, job.head, job.plan.quant, job.plan.floats)
    clamped = {
        x.node: x for x in regions.layers if x.activation in CLAMPS and x.node in regions.integer
    }
    dropped = {x.members[1] for x in clamped.values()}
    steps = []
    for node in job.network.proto.graph.node:
        if node.name in dropped or node.op_type == "Constant":
            continue
        layer = clamped.get(node.name)
        outputs = [layer.output] if layer else node.output
        integer = node.name in regions.integer
        steps.append(Step(node, tuple(node.input), tuple(outputs), integer, layer is not None))
    return steps


def _end(writer: Writer, name: str) -> int:
    """Return the number of an output that lies as files have them, under its own name."""
    value = writer.values[name]
    value = writer.laid(value, lay.native(len(value.shape)))
    if value.name == name and value.stored == value.lies:
        return value.number
    made = writer.like(value, name)
    writer.reshape(value, made)
    return made.number
