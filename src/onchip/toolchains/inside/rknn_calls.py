"""The calls of Rockchip's rknn-toolkit2: one model per worker, built and then simulated.

Paths that reach the SDK are relative to the worker's own folder: it cannot read ones with spaces.
"""

import os
import tempfile
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CONSTRAINED = "the SDK refused {}: see the log"


class Calls:
    """One model in the SDK."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        # what the SDK leaves behind goes with the worker's folder
        os.environ["TMPDIR"] = tempfile.tempdir = os.fspath(Path.cwd())
        from rknn.api import RKNN

        self._progress = progress
        self._rknn = RKNN(verbose=False)
        self._ready = False

    def build(
        self,
        *,
        model: str,
        config: dict[str, Any],
        ops: str = "",
        quantize: bool = False,
        images: int = 0,
        hybrid: str = "",
        raised: list[str] | None = None,
    ) -> bytes:
        """Configure, load `model`, build, and return the bytes of the .rknn file.

        Args:
            model: an ONNX file in the worker's folder.
            config: for the SDK's `config()`.
            ops: a Python file with classes of custom operations.
            quantize: let the SDK quantize, on `0.npy` to `{images - 1}.npy` (NCHW).
            images: how many there are.
            hybrid: "auto" or "proposal": let the SDK raise layers as well.
            raised: tensors whose layers are raised to float16.
        """
        self._progress("load", 0, 1)
        _check(self._rknn.config(**config), "config")
        for made in _operations(ops) if ops else []:
            _check(self._rknn.reg_custom_op(made), "reg_custom_op")
        _check(self._rknn.load_onnx(model=model), "load_onnx")
        self._progress("load", 1, 1)
        Path("dataset.txt").write_text("".join(f"{i}.npy\n" for i in range(images)))
        if hybrid == "proposal" or raised:
            self._two_steps(hybrid == "proposal", raised or [])
        elif quantize:
            done = self._rknn.build(
                do_quantization=True, dataset="dataset.txt", auto_hybrid=hybrid == "auto"
            )
            _check(done, "build")
        else:
            _check(self._rknn.build(do_quantization=False), "build")
        self._progress("build", 1, 1)
        _check(self._rknn.export_rknn("made.rknn"), "export_rknn")
        return Path("made.rknn").read_bytes()

    def _two_steps(self, proposal: bool, raised: list[str]) -> None:
        """Hybrid quantization: the SDK writes its plan, layers are raised in it, it goes on."""
        from rknn.api import RKNN
        from ruamel.yaml import YAML

        done = self._rknn.hybrid_quantization_step1(dataset="dataset.txt", proposal=proposal)
        _check(done, "hybrid_quantization_step1")
        self._progress("build", 0, 1)
        path = next(Path().glob("*.quantization.cfg"))
        yaml = YAML()
        plan = yaml.load(path.read_text())
        known = list(plan.get("quantize_parameters") or {})
        if fused := [name for name in raised if name not in known]:
            raise ValueError(
                f"{fused[0]} is no tensor of its own to the SDK; such are {known[-9:]}"
            )
        layers = plan.get("custom_quantize_layers") or {}
        layers.update(dict.fromkeys(raised, "float16"))
        plan["custom_quantize_layers"] = layers
        with path.open("w") as file:
            yaml.dump(plan, file)
        self._rknn.release()
        self._rknn = RKNN(verbose=False)
        done = self._rknn.hybrid_quantization_step2(
            model_input=str(next(Path().glob("*.model"))),
            data_input=str(next(Path().glob("*.data"))),
            model_quantization_cfg=str(path),
        )
        _check(done, "hybrid_quantization_step2")

    def simulate(self, *, tensor: Array) -> list[Array]:
        """Run one input `(1, H, W, 3)` in the SDK's simulator."""
        if not self._ready:
            _check(self._rknn.init_runtime(), "init_runtime")
            self._ready = True
        found = self._rknn.inference(inputs=[tensor], data_format="nhwc")
        if found is None:
            raise RuntimeError(CONSTRAINED.format("inference"))
        return [np.asarray(f) for f in found]

    def analyze(self, *, tensor: Array) -> str:
        """Return the SDK's own table of errors layer by layer, for one input `(1, 3, H, W)`."""
        np.save("analysis.npy", tensor)
        done = self._rknn.accuracy_analysis(inputs=["analysis.npy"], output_dir="snapshot")
        _check(done, "accuracy_analysis")
        return Path("snapshot/error_analysis.txt").read_text()


def _check(code: object, call: str) -> None:
    if code:
        raise RuntimeError(CONSTRAINED.format(call))


def _operations(path: str) -> list[object]:
    """Return an instance of every class in a user's file that describes a custom operation."""
    spec = spec_from_file_location("custom_ops", os.fspath(path))
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    needed = ("op_type", "shape_infer", "compute")
    found = [
        v()
        for v in vars(module).values()
        if isinstance(v, type) and all(hasattr(v, n) for n in needed)
    ]
    if not found:
        raise RuntimeError(f"{path} has no class with {', '.join(needed)}")
    return found
