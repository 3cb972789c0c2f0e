"""The compiler's archive: a tar whose members carry the network's name.

Members and the keys of `metadata.json` are those of public logs and of readers of the format. What
the stand-in needs to go on lies beside them, under names of its own.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hailo_sdk_common.states.states import States
from onnx import numpy_helper

from hailo_standin.emulate import Coded, Quantized
from hailo_standin.hn import describe, weights
from hailo_standin.network import Array
from hailo_standin.parse import Parsed, reparsed

OWN = "standin"


@dataclass(frozen=True)
class Archive:
    """Everything that a runner knows."""

    state: States
    arch: str
    sdk: str
    source: bytes  # the ONNX file
    parsed: Parsed
    hn: Mapping[str, Any]  # as the script left it
    script: str = ""
    applied: str = ""  # the script that changed the network
    config: str = ""
    activated: tuple[str, ...] = ()  # layers that the compiler made sigmoid by itself
    quantized: Quantized | None = None
    hef: bytes | None = None


def write(path: Path, archive: Archive) -> None:
    """Write a HAR."""
    with tarfile.open(path, "w") as tar:
        for name, data in _members(archive).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _members(a: Archive) -> dict[str, bytes]:
    net = a.parsed.network.name
    hn = json.dumps(a.hn).encode()
    height, width, _ = a.parsed.network.shape(a.parsed.network.input)
    own: dict[str, Any] = {"ends": a.parsed.ends, "size": (width, height), "applied": a.applied}
    made = {
        f"{net}.metadata.json": json.dumps(_metadata(a)).encode(),
        f"{net}.hn": hn,
        f"{net}.npz": _npz(weights(a.parsed.network)),
        f"{net}.original_model_meta.json": json.dumps({"framework": "onnx"}).encode(),
        f"{net}.onnx": a.source,
    }
    if a.script:
        made[f"{net}.alls"] = a.script.encode()
    if a.state not in (States.HAILO_MODEL, States.UNINITIALIZED):
        made[f"{net}.native.hn"] = json.dumps(describe(a.parsed.network)).encode()
        made[f"{net}.fpo.npz"] = made[f"{net}.npz"]
        made[f"{net}.modifications_meta_data.json"] = json.dumps(
            {"sigmoid_layers": [f"{net}/{n}" for n in a.activated]}
        ).encode()
    if a.config:
        made[f"{net}.nms.json"] = a.config.encode()
    if a.quantized is not None:
        made[f"{net}.q.npz"] = _npz(_codes(a.quantized.graph))
        made[f"{OWN}.q.onnx"] = a.quantized.graph
        own["input"] = asdict(a.quantized.input)
        own["outputs"] = {n: asdict(c) for n, c in a.quantized.outputs.items()}
    if a.hef is not None:
        made[f"{net}.auto.alls"] = b"# placed by the compiler\n"
        made[f"{net}.hef"] = a.hef
    return made | {f"{OWN}.json": json.dumps(own).encode()}


def _metadata(a: Archive) -> dict[str, Any]:
    net = a.parsed.network.name
    return {
        "state": a.state.value,
        "hn": f"{net}.hn",
        "npz": f"{net}.npz",
        "model_name": net,
        "hw_arch": a.arch,
        "sdk_version": a.sdk,
        "params_kind": "q" if a.quantized else "native",
    }


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _codes(graph: bytes) -> dict[str, Array]:
    found = onnx.load_from_string(graph).graph.initializer
    return {t.name: numpy_helper.to_array(t) for t in found if t.name.endswith("/codes")}


def read(path: Path) -> Archive:
    """Read a HAR that `write` wrote."""
    with tarfile.open(path) as tar:
        members = {m.name: m for m in tar.getmembers()}

        def get(name: str) -> bytes:
            if name not in members:
                return b""
            file = tar.extractfile(members[name])
            assert file is not None
            return file.read()

        listed = [n for n in members if n.endswith(".metadata.json")]
        metadata = json.loads(get(listed[0]))
        net = metadata["model_name"]
        own = json.loads(get(f"{OWN}.json"))
        source = get(f"{net}.onnx")
        parsed = reparsed(source, net, tuple(own["size"]), own["ends"])
        quantized = None
        if "outputs" in own:
            outputs = {n: Coded(**c) for n, c in own["outputs"].items()}
            quantized = Quantized(get(f"{OWN}.q.onnx"), Coded(**own["input"]), outputs)
        added = json.loads(get(f"{net}.modifications_meta_data.json") or b"{}")
        return Archive(
            States(metadata["state"]),
            metadata["hw_arch"],
            metadata["sdk_version"],
            source,
            parsed,
            json.loads(get(f"{net}.hn")),
            get(f"{net}.alls").decode(),
            own["applied"],
            get(f"{net}.nms.json").decode(),
            tuple(n.partition("/")[2] for n in added.get("sigmoid_layers", [])),
            quantized,
            get(f"{net}.hef") or None,
        )
