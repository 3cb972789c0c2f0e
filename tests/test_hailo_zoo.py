"""Whole networks held against Hailo's model zoo: where they are cut, and how layers are called.

Ultralytics' own models with random weights, exported at test time (`make test ALL=1`), those of one
size or two; with `ONCHIP_ZOO=all` every network of the zoo that can be exported. The numbers of layers
are those that the zoo's scripts and NMS files name (v2.18 and v5.2).
"""

import csv
import json
import os
import re
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from onchip.graph.clean import clean
from onchip.graph.pixels import declared, input_spec
from onchip.graph.prove import cut
from onchip.graph.read import Model, read
from onchip.spec import HeadSpec
from onchip.targets.hailo import forecast, names, nms, ops
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.hailo.script import effective, engine, script
from test_zoo import SIZE, export
from test_zoo import ultralytics as ultralytics  # the fixture

pytestmark = pytest.mark.zoo

ONE_TO_ONE = ("yolov10", "yolo26")  # the heads that the zoo takes of these
ODD = {"yolov11m": "the zoo lists its levels' boxes and classes in no order"}

# model: the zoo's layers of its end nodes, in the zoo's order
ENDS = {
    "yolov8n": (41, 42, 52, 53, 62, 63),
    "yolov8l": (73, 74, 88, 89, 100, 103),
    "yolov9c": (98, 100, 121, 122, 143, 144),
    "yolov10n": (45, 48, 56, 59, 66, 69),
    "yolo11n": (51, 54, 62, 65, 77, 80),
    "yolo11m": (71, 74, 87, 90, 102, 105),
    "yolo26n": (61, 77, 91, 64, 80, 94),
}
SIZES = {"yolov8": "nsmlx", "yolov9": "c", "yolov10": "nsbx", "yolo11": "nsmlx", "yolo26": "nsm"}
EVERY = [f"{family}{size}" for family, sizes in SIZES.items() for size in sizes]
PLANNED = EVERY if os.environ.get("ONCHIP_ZOO") == "all" else list(ENDS)
WEIGHTS = {"yolov8n": 3.2, "yolov8l": 43.7, "yolo11m": 20.1, "yolo26n": 2.4}  # millions
OPERATIONS = {"yolov8n": 8.74, "yolov8l": 165.3, "yolo11m": 68.1, "yolo26n": 5.5}  # G, at 640

# Who reads whom in YOLO11m, from the zoo's script for Hailo-15H: a few of all kinds of layers.
YOLO11M = """
    conv4 conv6, conv4 ew_add1, conv7 ew_add1, ew_add1 conv8, ew_add1 ew_add2, conv5 concat1,
    ew_add2 concat1, concat1 conv10, conv10 concat2, conv14 conv16, conv15 concat3, conv25 concat5,
    conv42 maxpool1, maxpool1 maxpool2, maxpool2 maxpool3, conv42 concat9, maxpool3 concat9,
    concat9 conv43, concat10 conv49, conv49 resize1, conv49 concat20, resize1 concat11,
    conv57 concat13, conv51 ew_add12, conv63 ew_add14, conv61 concat15, concat15 conv66,
    conv66 concat16, conv76 ew_add16, conv82 concat19
"""


@dataclass(frozen=True)
class Exported:
    """A network as it is planned."""

    model: Model
    head: HeadSpec
    layers: dict[str, str]


@pytest.fixture(scope="module")
def exported(
    ultralytics: types.ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """The networks, each exported once."""
    found = {}
    for name in PLANNED:
        more = {"nms": False} if name.startswith(ONE_TO_ONE) else {}
        path = export(ultralytics, f"{name}.yaml", tmp_path_factory.mktemp(name), **more)
        made = cut(clean(read(path)).model)
        found[name] = Exported(made.model, made.head, names.predicted(made.model))
    return found


@pytest.mark.parametrize("name", ENDS)
def test_names_of_the_zoo(name: str, exported: dict[str, Exported]) -> None:
    mine = exported[name]
    found = [mine.layers[n] for n in nms.end_nodes(mine.head)]
    assert found == [f"conv{n}" for n in ENDS[name]]


@pytest.mark.parametrize("name", ENDS)
def test_every_layer_that_computes_has_a_name(name: str, exported: dict[str, Exported]) -> None:
    mine = exported[name]
    convs = [n.name for n in mine.model.proto.graph.node if n.op_type == "Conv"]
    assert len({mine.layers[n] for n in convs}) == len(convs)
    assert ops.unsupported(mine.model, "hailo8l") == ()


def test_depthwise_layers_that_the_zoo_raises(exported: dict[str, Exported]) -> None:
    """Those of YOLO26 to which its script gives 16 bits: in the attentions and the last level."""
    layers = exported["yolo26n"].layers
    found = {n: v for n, v in layers.items() if v in ("dw1", "dw6", "dw7", "dw8")}
    assert {v: n.split("/")[1:3] for n, v in found.items()} == {
        "dw1": ["model.10", "m"],
        "dw6": ["model.22", "m.0"],
        "dw7": ["model.23", "one2one_cv3.2"],
        "dw8": ["model.23", "one2one_cv3.2"],
    }


def test_the_whole_graph_of_one_network(exported: dict[str, Exported]) -> None:
    model, layers = exported["yolo11m"].model, exported["yolo11m"].layers
    read_by = {
        (layers.get(model.producers[t].name), layers.get(n.name))
        for n in model.proto.graph.node
        for t in n.input
        if t in model.producers
    }
    wanted = {tuple(pair.split()) for pair in YOLO11M.split(",")}
    assert wanted <= read_by


@pytest.mark.parametrize("name", WEIGHTS)
def test_size_as_the_zoo_counts_it(name: str, exported: dict[str, Exported]) -> None:
    found = forecast.measured(exported[name].model)
    assert found.weights == pytest.approx(WEIGHTS[name], rel=0.02)
    assert found.operations * (640 / SIZE) ** 2 == pytest.approx(OPERATIONS[name], rel=0.03)
    assert found.convolutions == max(ENDS[name])
    assert found.attention is name.startswith(("yolo11", "yolo26"))


@pytest.mark.data
@pytest.mark.parametrize("name", PLANNED)
def test_plan_of_the_zoo(name: str, data: Path, exported: dict[str, Exported]) -> None:
    """End nodes, meta architecture, normalization, letterbox and sigmoids, from the zoo's files."""
    table = data.parent / "references" / "hailo_networks.csv"
    if not table.is_file():
        pytest.skip(f"the table of the zoo's networks is not here ({table})")
    with table.open() as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    row = rows[zoo := name.replace("yolo11", "yolov11")]
    mine, options = exported[name], HailoOptions()
    spec = input_spec(mine.model, declared(mine.model))
    made = script(mine.head, spec, options, effective(options, 1500, gpu=True), chip="hailo8")
    text = made.text(mine.layers)

    ends, theirs = nms.end_nodes(mine.head), tuple(json.loads(row["end_nodes"]))
    if zoo == "yolov9c":  # an older export, whose nodes have numbers
        assert len(ends) == len(theirs)
    elif zoo in ODD:
        assert set(ends) == set(theirs), ODD[zoo]
    else:
        assert ends == theirs
    place = engine(options, mine.head, "hailo8")
    assert (place or "") == row["nms_engine"]
    assert nms.support(mine.head, "hailo8").meta_arch == row["nms_meta_arch"]
    assert f"meta_arch={row['nms_meta_arch']}, engine=cpu" in text or not place
    theirs_text = row["alls_generic"]
    normalization = theirs_text.partition(" ; ")[0]
    assert normalization.startswith("normalization1 = ") and normalization in text
    sigmoids = re.findall(r"change_output_activation\(.*?\)", theirs_text)
    assert set(sigmoids) == set(re.findall(r"change_output_activation\(.*?\)", text))
    assert (spec.letterbox == "center") == (row["centered"] == "True")
    assert spec.pad == int(row["padding_color"])
