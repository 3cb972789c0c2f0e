"""The QDQ graph as the compiled file, for runtimes that fuse it when they load it."""

from collections.abc import Mapping

import onnx
from msgspec.structs import replace

from onchip.graph.decoded import decoded, table, taking_bytes
from onchip.quantize.emit import end_in_codes
from onchip.targets.target import Compiled, Job


def compiled(job: Job, tools: Mapping[str, str]) -> Compiled:
    """Return the graph with the end that was asked for: the head's codes, or boxes and scores."""
    if job.layout != "frigate":
        spec = replace(job.input, dtype="uint8" if job.input.uniform else "float32")
        return Compiled(end_in_codes(job.qdq), "onnx", spec, dict(tools))
    proto = onnx.ModelProto.FromString(job.qdq)
    decoded(proto, job.network, job.head, job.input)
    taking_bytes(proto, job.input)
    spec = replace(job.input, dtype="uint8")
    return Compiled(proto.SerializeToString(), "onnx", spec, dict(tools), head=table(job.head))
