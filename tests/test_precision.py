"""Precision by layer: by name, by pattern, in 16 bits, and inside a budget."""

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onchip.artifact import Artifact, load
from onchip.build import Options, build, cut_model, optimize, parse, quantized
from onchip.errors import InputError, UnsupportedError
from onchip.graph.run import Runner
from onchip.quantize.plan import QuantPlan
from onchip.quantize.recipe import PLAIN, RECIPES

from conftest import DEMO, Cli

STEM = "/stem/stem.0/stem.0.0/Conv"


def plan_of(made: Artifact) -> QuantPlan:
    return msgspec.json.decode(made.payload("plan"), type=QuantPlan)


def raised(made: Artifact, precision: str) -> set[str]:
    return {x.node for x in plan_of(made).layers if x.precision == precision}


def test_layers_stay_in_float_by_name_and_pattern(parsed: Artifact, scenes: list[Path]) -> None:
    made = optimize(parsed, scenes, options=Options(keep_float=(STEM, "/kind.*/Conv")))
    found = raised(made, "float32")
    assert STEM in found
    assert {n for n in found if n != STEM} and all(n.startswith(("/stem", "/kind.")) for n in found)


def test_a_pattern_that_fits_nothing_names_what_is_there(
    parsed: Artifact, scenes: list[Path]
) -> None:
    with pytest.raises(InputError, match="no layer") as caught:
        optimize(parsed, scenes, options=Options(keep_float=("/stem/stem.0/stem.0.0/Con",)))
    assert STEM in caught.value.hint


def test_sixteen_bits_bring_a_layer_nearer(parsed: Artifact, scenes: list[Path]) -> None:
    plain = optimize(parsed, scenes, options=Options(max_float=0))
    wide = optimize(parsed, scenes, options=Options(int16=("/stem*",), max_float=0))
    assert raised(wide, "int16") == {"/stem/stem.0/stem.0.0/Conv", "/stem/stem.1/stem.1.0/Conv"}
    tensors = {t.name: t for t in plan_of(wide).tensors}
    assert {t.bits for t in tensors.values()} == {8, 16}
    assert max(t.sqnr_db for t in tensors.values() if t.bits == 16) > 60
    noise = cut_model(plain).noise(3)
    wanted = Runner(cut_model(plain).bytes)(noise)
    pixels = (noise * 255).astype(np.uint8)
    errors = []
    for made in (plain, wide):
        found = Runner(quantized(made).bytes, optimize=False)(pixels)
        errors.append(sum(float(np.square(found[n] - v).mean()) for n, v in wanted.items()))
    assert errors[1] < errors[0]


def test_a_plan_of_sixteen_bits_runs_in_the_kernels(scenes: list[Path]) -> None:
    made = build(DEMO, "cpu", scenes, options=Options(int16=("/stem*",)))
    from onchip.detect.detector import Detector

    with Detector(made) as detector:
        assert len(detector(scenes[0])) > 0


def test_a_chip_says_what_its_layers_can_be_raised_to(scenes: list[Path]) -> None:
    made = parse(DEMO, "rk3588", scenes)
    with pytest.raises(UnsupportedError, match="rk3588 has no layers in int16") as caught:
        optimize(made, scenes, options=Options(int16=("/stem*",)))
    assert "float16" in caught.value.hint
    small = parse(DEMO, "rv1106", scenes)
    for options in (Options(keep_float=(STEM,)), Options(budget=0.5)):
        with pytest.raises(UnsupportedError, match=r"no layers in float|integers only"):
            optimize(small, scenes, options=options)


def test_a_sound_plan_needs_no_raised_layer(parsed: Artifact, scenes: list[Path]) -> None:
    made = optimize(parsed, scenes, options=Options(budget=2.0))
    assert not plan_of(made).floats
    assert [v.code for v in made.manifest.verdicts][-1] == "precision_in_budget"


def test_a_budget_is_reached_with_few_layers(scenes: list[Path], tmp_path: Path) -> None:
    proto = onnx.load(DEMO)
    _spread(proto, 400.0)
    path = tmp_path / "hard.onnx"
    onnx.save(proto, path)
    begun = parse(path, "rk3588", scenes)
    for recipe, least in ((PLAIN, 1), (RECIPES["balanced"], 0)):
        made = optimize(begun, scenes, options=Options(budget=3.0, recipe=recipe))
        verdict = made.manifest.verdicts[-1]
        assert verdict.code == "precision_in_budget", verdict
        assert least <= len(plan_of(made).floats) <= 4 * least


def _spread(proto: onnx.ModelProto, factor: float) -> None:
    """Make one channel of the stem so wide that no scale fits it and the others.

    What reads the channel divides by as much. SiLU is not linear, so it is another network then,
    but still one that sees.
    """
    graph = proto.graph
    tensors = {t.name: t for t in graph.initializer}
    convs = [n for n in graph.node if n.op_type == "Conv"][:2]
    first, second = (numpy_helper.to_array(tensors[n.input[1]]).copy() for n in convs)
    bias = numpy_helper.to_array(tensors[convs[0].input[2]]).copy()
    channel = int(np.abs(second).sum(axis=(0, 2, 3)).argmin())
    first[channel] *= factor
    bias[channel] *= factor
    second[:, channel] /= factor
    for name, values in (
        (convs[0].input[1], first),
        (convs[0].input[2], bias),
        (convs[1].input[1], second),
    ):
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def test_the_command_line(tiny: Path, photos: Path, cli: Cli) -> None:
    cli("build", tiny, "-c", photos, "--auto-precision", "5", "-o", "a.onchip")
    codes = {v.code for v in load(cli.folder / "a.onchip").manifest.verdicts}
    assert codes & {"precision_in_budget", "budget_missed"}
    done = json.loads(
        cli(
            "build",
            tiny,
            "-c",
            photos,
            "--int16",
            "*",
            "-t",
            "rk3588",
            "--json",
            "-o",
            "b.onchip",
            code=3,
        ).stdout
    )
    assert done["error"]["code"] == "unsupported"
