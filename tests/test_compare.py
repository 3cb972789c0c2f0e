"""onchip diff: what differs between two compiled files, and whether that is all of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from onchip.artifact import Artifact, Manifest, save
from onchip.errors import InputError, UnsupportedError
from onchip.report.compare import as_text, compare
from onchip.report.hef import expected
from onchip.spec import HeadSpec, HeadTensor, InputSpec
from test_har import files, graph, packed
from test_hef import FILES, head
from test_rknn_format import made as rknn

import hefs
from hefs import Layer

LABELS = tuple(f"class{n}" for n in range(80))


def artifact(program: bytes, target: str = "hailo8", classes: int = 80, **more: Any) -> Artifact:
    tensor = HeadTensor(
        name="t", node="/model.22/cv2.0/cv2.0.2/Conv", role="box", stride=8, start=0, stop=64
    )
    manifest = Manifest(
        format=1, onchip="0.1.0", target=target, source="best.onnx", source_sha256="0" * 64,
        input=InputSpec(name="images", width=640, height=640),
        head=HeadSpec(family="yolov8", coding="dfl", scoring="class", labels=LABELS[:classes], tensors=(tensor,)),
        **more,
    )  # fmt: skip
    return Artifact(manifest, {}).with_payloads({"program": ("program.bin", program)})


def saved(folder: Path, **named: bytes | Artifact) -> list[Path]:
    paths = []
    for name, content in named.items():
        stem, _, suffix = name.partition("_")
        path = folder / f"{stem}.{suffix}"
        if isinstance(content, Artifact):
            save(content, path)
        else:
            path.write_bytes(content)
        paths.append(path)
    return paths


def differing(a: Path, b: Path) -> dict[str, tuple[object, object]]:
    return {d.field: (d.a, d.b) for d in compare(a, b).differences}


def test_a_file_equals_itself(tmp_path: Path) -> None:
    for name, options in FILES.items():
        a, b = saved(tmp_path, a_hef=hefs.build(**options), b_hef=hefs.build(**options))
        found = compare(a, b)
        assert found.equal and found.compared > 10, name
        assert as_text(found, a, b) == f"{a} and {b} are alike in all {found.compared} fields"


def test_what_differs_is_told_the_gravest_first(tmp_path: Path) -> None:
    changed = head(score=0.5, classes=3)
    changed["outputs"][0] = Layer(
        **{**vars(changed["outputs"][0]), "scales": (0.2,), "zeros": (90.0,), "bits": 16}
    )
    a, b = saved(
        tmp_path,
        a_hef=hefs.build(**head(), ccws=b"one"),
        b_hef=hefs.build(
            **changed, ccws=b"two", arch="hailo8l", sdk="3.31.0", timestamp=9, fps=5.0
        ),
    )
    node = "/model.22/cv2.0/cv2.0.2/Conv"
    fields = differing(a, b)
    assert fields["chip"] == ("hailo8", "hailo8l")
    assert fields["classes"] == (80, 3)
    assert fields["score threshold"] == (0.2, 0.5)
    assert fields["shape of sigmoid0"] == ((80, 80, 80), (80, 80, 3))
    assert fields[f"bits of {node}"] == ("uint8", "uint16")
    assert fields[f"scale of {node}"] == ((0.1,), (0.2,))
    assert fields[f"zero of {node}"] == ((97.0,), (90.0,))
    assert fields["compiler"] == ("3.33.1", "3.31.0")
    order = ["chip", "classes", "score threshold", "shape of sigmoid0", f"bits of {node}", f"scale of {node}",
             "layouts", "compiler", "created", "payload", "bytes"]  # fmt: skip
    assert [f for f in fields if f in order] == order


def test_builds_that_number_layers_anew_are_compared_by_their_nodes(tmp_path: Path) -> None:
    other = head()
    names = {o.name: f"{o.name}0" for o in other["outputs"]}
    other["outputs"] = [Layer(**{**vars(o), "name": names[o.name]}) for o in other["outputs"]]
    decoders = [
        {**d, "reg": names[d["reg"]], "cls": names[d["cls"]]} for d in other["nms"].decoders
    ]
    other["nms"] = hefs.Nms(**{**vars(other["nms"]), "decoders": decoders})
    a, b = saved(
        tmp_path, a_hef=hefs.build(**head()), b_hef=hefs.build(**{**other, "name": "other"})
    )
    assert set(differing(a, b)) == {"bytes"}


def test_only_the_contents_differ(tmp_path: Path) -> None:
    a, b = saved(
        tmp_path, a_hef=hefs.build(**head(), ccws=b"one"), b_hef=hefs.build(**head(), ccws=b"two")
    )
    assert set(differing(a, b)) == {"payload", "bytes"}


def test_a_tensor_that_only_one_file_has_is_one_line(tmp_path: Path) -> None:
    a, b = saved(tmp_path, a_hef=hefs.build(**FILES["mux"]), b_hef=hefs.build(**FILES["planes"]))
    fields = differing(a, b)
    assert fields["shape of fc1"] == ((1, 1, 10), None) and fields["shape of conv1"] == (
        None,
        (4, 4, 3),
    )
    assert not {f for f in fields if f.startswith(("scale of", "zero of", "range of", "bits of"))}


def test_several_networks_are_kept_apart(tmp_path: Path) -> None:
    a, b = saved(
        tmp_path,
        a_hef=hefs.build(**FILES["several groups"]),
        b_hef=hefs.build(**FILES["several groups"], arch="hailo8l"),
    )
    assert {"chip", "layouts in a", "layouts in b"} <= set(differing(a, b))


def test_archives(tmp_path: Path) -> None:
    other = files(
        **{"net.hn": json.dumps(graph("linear")).encode(), "net.alls": b"normalization()\n"}
    )
    a, b = saved(tmp_path, a_har=packed(files()), b_har=packed(other))
    assert set(differing(a, b)) == {"activation of /cv3/Conv", "script", "bytes"}
    assert compare(a, a).equal


def test_a_compiled_file_against_an_archive(tmp_path: Path) -> None:
    """Only what both say is compared: the archive knows no scales, the compiled file no script."""
    made = head()
    a, b = saved(
        tmp_path, a_hef=hefs.build(**made, arch="hailo8l", sdk="3.31.0"), b_har=packed(files())
    )
    fields = differing(a, b)
    assert set(fields) == {"end nodes"}
    assert compare(a, b).compared >= 8
    (c,) = saved(
        tmp_path,
        c_har=packed(files(**{"nms_config.json": b'{"nms_scores_th": 0.5, "classes": 3}'})),
    )
    assert set(differing(a, c)) == {"classes", "score threshold", "IoU threshold", "end nodes"}
    assert "fields that both have" in as_text(compare(a, c), a, c)


def test_rockchip_files(tmp_path: Path) -> None:
    shapes = {"output0": (1, 84, 8400)}
    a, b = saved(tmp_path, a_rknn=rknn(shapes), b_rknn=rknn(shapes, high=2.0, platform="rk3566"))
    assert set(differing(a, b)) == {"chip", "scale of output0", "bytes"}
    assert compare(a, a).equal


def test_artifacts(tmp_path: Path) -> None:
    program = hefs.build(**head())
    a, b = saved(tmp_path, a_onchip=artifact(program), b_onchip=artifact(program, "hailo8l", 3))
    assert set(differing(a, b)) == {"chip", "classes", "labels"}
    (c,) = saved(tmp_path, c_hef=program)
    assert compare(a, c).equal and compare(c, a).equal
    (d,) = saved(tmp_path, d_hef=hefs.build(**head(score=0.4)))
    assert set(differing(a, d)) == {"score threshold"}


def test_what_cannot_be_compared(tmp_path: Path, tiny: Path) -> None:
    a, b, c, d = saved(
        tmp_path,
        a_hef=hefs.build(**head()),
        b_rknn=rknn({"o": (1, 5)}),
        c_onchip=artifact(b"onnx"),
        d_txt=b"x",
    )
    with pytest.raises(UnsupportedError, match=r"a \.hef and a \.rknn file have nothing in common"):
        compare(a, b)
    with pytest.raises(
        UnsupportedError, match=r"the program in .*c\.onchip, for hailo8, is no \.hef file"
    ):
        compare(a, c)
    for other in (d, tiny):
        with pytest.raises(UnsupportedError, match="is neither compiled nor an artifact"):
            compare(a, other)
    for other in (tmp_path, tmp_path / "none.hef"):
        with pytest.raises(InputError, match="is not a file"):
            compare(a, other)
    (e,) = saved(tmp_path, e_onchip=Artifact(replace(artifact(b"").manifest, payloads={}), {}))
    with pytest.raises(InputError, match="has no program yet"):
        compare(a, e)


def test_the_exit_code_is_that_of_diff(cli: Callable[..., Any], tmp_path: Path) -> None:
    saved(tmp_path, a_hef=hefs.build(**head()), b_hef=hefs.build(**head(), arch="hailo8l"))
    assert "are alike in all" in cli("diff", "a.hef", "a.hef").stdout
    done = cli("diff", "a.hef", "b.hef", code=1)
    assert done.stdout.startswith("a.hef and b.hef differ in 3 of ")
    assert (
        "  chip     hailo8  |  hailo8l\n" in done.stdout
        and "  layouts  -  |  51, 204\n" in done.stdout
    )
    told = json.loads(cli("diff", "a.hef", "b.hef", "--json", code=1).stdout)
    assert told.keys() == {"equal", "a", "b", "formats", "compared", "differences"}
    assert (told["equal"], told["formats"]) == (False, ["hef", "hef"])
    assert told["differences"][0] == {"field": "chip", "a": "hailo8", "b": "hailo8l"}
    assert cli("diff", "a.hef", "none", code=2).stderr.startswith("error: none is not a file")


# An artifact as what a compiled file should be


def test_an_artifact_says_what_its_program_must_be(cli: Callable[..., Any], tmp_path: Path) -> None:
    saved(
        tmp_path, best_onchip=artifact(b"later", "hailo8l"), wrong_hef=hefs.build(**head(classes=3))
    )
    told = json.loads(cli("inspect", "wrong.hef", "-t", "best.onchip", "--json").stdout)
    assert {"wrong_chip", "wrong_classes"} <= {v["code"] for v in told["verdicts"]}
    wanted = expected(artifact(b""))
    assert (wanted.chip, wanted.classes, wanted.size) == ("hailo8", 80, (640, 640))
    assert wanted.end_nodes == ("/model.22/cv2.0/cv2.0.2/Conv",)


def test_an_artifact_is_shown_with_its_program(cli: Callable[..., Any], tmp_path: Path) -> None:
    saved(
        tmp_path,
        best_onchip=artifact(hefs.build(**head(-4, 4)), "hailo8l"),
        bad_onchip=artifact(b"\x01HEF"),
    )
    said = cli("inspect", "best.onchip").stdout
    assert (
        "its program: HEF, header 2, for HAILO8\n" in said
        and "error: scores at stride 8 reach from -4 to 4" in said
    )
    told = json.loads(cli("inspect", "best.onchip", "--json").stdout)
    assert told["program"]["parse_hef"].startswith("Architecture HEF was compiled for: HAILO8\n")
    assert {"missing_sigmoid", "wrong_chip"} <= {v["code"] for v in told["verdicts"]}
    assert (
        "error: its program is cut short: its header is not whole in 4 bytes"
        in cli("inspect", "bad.onchip").stdout
    )
