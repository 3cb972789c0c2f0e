"""How far the scores of a changed graph stray from the network's."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from onchip.artifact import Artifact
from onchip.build import cut_model
from onchip.graph.run import Runner
from onchip.quantize.probes import Probes
from onchip.vision.preprocess import prepare, read_image


def test_scores_stray_as_far_as_the_graph_is_changed(
    parsed: Artifact, scenes: Sequence[Path]
) -> None:
    graph = cut_model(parsed).bytes
    inputs = [prepare(read_image(path), parsed.manifest.input)[0] for path in scenes[:3]]
    run = Runner(graph)
    probes = Probes(parsed.manifest.head, inputs, [run(x) for x in inputs])
    assert probes.loss(graph) == pytest.approx(0, abs=1e-6)
    little, much = (probes.loss(_biased(graph, by)) for by in (0.05, 0.5))
    assert 0.001 < little < much


def _biased(graph: bytes, by: float) -> bytes:
    """Return the graph with every bias higher by so much."""
    proto = onnx.load_from_string(graph)
    names = {n.input[2] for n in proto.graph.node if n.op_type == "Conv" and len(n.input) > 2}
    for constant in proto.graph.initializer:
        if constant.name in names:
            values = numpy_helper.to_array(constant) + by
            constant.CopyFrom(numpy_helper.from_array(values.astype("float32"), constant.name))
    return proto.SerializeToString()
