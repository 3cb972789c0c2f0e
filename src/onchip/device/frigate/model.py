"""What an artifact is to Frigate: which of its detectors run the file, and what to tell them.

Source: Frigate 0.18's detector plugins and its `ModelConfig`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onchip.artifact import Artifact
from onchip.errors import UnsupportedError
from onchip.measure.frigate import read_by_frigate
from onchip.spec import InputSpec
from onchip.targets import target as targets

MODEL_TYPE = "yolo-generic"  # Frigate's word for one table of boxes and scores


@dataclass(frozen=True)
class FrigateModel:
    """What Frigate's configuration says of a model, in its own words.

    `detectors` are the types that run the file, best first. `file` is a name for the file that
    Frigate loads, with the ending that it goes by; its bytes are the artifact's program.
    """

    detectors: tuple[str, ...]
    model_type: str
    input_tensor: Literal["nchw", "nhwc"]
    input_pixel_format: Literal["rgb", "bgr"]
    input_dtype: Literal["int", "float", "float_denorm"]
    width: int
    height: int
    labels: tuple[str, ...]
    file: str

    @property
    def suffix(self) -> str:
        """The file's ending, with its dot."""
        return Path(self.file).suffix


def frigate_model(artifact: Artifact) -> FrigateModel:
    """Return what Frigate must be told of an artifact.

    Raises:
        InputError: the artifact is not compiled yet.
        UnsupportedError: Frigate has no detector for it, or cannot read its outputs.
    """
    manifest = artifact.manifest
    detectors = targets.frigate_detectors(targets.get(manifest.target))
    spec, head = read_by_frigate(artifact)
    return FrigateModel(
        detectors=detectors,
        model_type=MODEL_TYPE,
        input_tensor=spec.layout,
        input_pixel_format=spec.color,
        input_dtype=_dtype(spec),
        width=spec.width,
        height=spec.height,
        labels=head.labels,
        file=_name(Path(manifest.source).stem) + Path(manifest.payloads["program"].file).suffix,
    )


def _name(stem: str) -> str:
    """Return a file name that Frigate takes for a detector's: its rknn runner goes by the name."""
    return "model" if any(word in stem.lower() for word in ("vision", "arcface")) else stem


def _dtype(spec: InputSpec) -> Literal["int", "float", "float_denorm"]:
    if spec.dtype == "uint8":
        return "int"
    if spec.uniform and spec.std[0] in (1.0, 255.0):
        return "float" if spec.std[0] == 255.0 else "float_denorm"
    raise UnsupportedError(
        f"Frigate cannot prepare this input: {spec.describe()}",
        "build it again with --layout frigate: the file then does that itself",
    )
