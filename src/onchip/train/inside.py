"""The calls of Ultralytics, in a process of their own: train, export, and see as it sees itself.

Whatever a checkpoint is loaded from stands in this process's own folder, where onchip put it after
it had looked into it.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onchip.progress import Progress
from onchip.train.standin import prepare

Floats = npt.NDArray[np.float32]
PAUSE = 0.2  # seconds between two words on the batches
METRICS = {
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
    "map50": "metrics/mAP50(B)",
    "map50_95": "metrics/mAP50-95(B)",
}


class Calls:
    """One training, or one network that is exported."""

    def __init__(self, progress: Progress) -> None:
        prepare(Path.cwd() / "config")
        import ultralytics  # or this process has no use

        self._version = ultralytics.__version__
        self._progress = progress
        self._network: Any = None

    def fetch(self, *, name: str) -> bool:
        """Fetch Ultralytics' own weights of that name into this folder, if there are such."""
        from ultralytics.utils.downloads import attempt_download_asset

        return Path(attempt_download_asset(name)).is_file()

    def check(self, *, model: str, scaled: bool, settings: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a network or with settings, and what is allowed."""
        from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
        from ultralytics.nn.tasks import load_checkpoint, yaml_model_load

        for name in settings:
            if name not in DEFAULT_CFG_DICT:
                near = ", ".join(get_close_matches(name, DEFAULT_CFG_DICT))
                return [f"Ultralytics has no setting {name!r}", near and f"near are {near}"]
        try:
            get_cfg(overrides=dict(settings))
        except (TypeError, ValueError, SyntaxError, AssertionError) as error:
            return [str(error).strip().partition("\n")[0], "all settings: yolo cfg"]
        if model.endswith((".yaml", ".yml")):
            try:
                notes = yaml_model_load(model)
            except FileNotFoundError:
                return [f"Ultralytics has no network {model}", "such as yolov8n.yaml, yolo11n.yaml"]
            if scaled and not notes.get("scales"):
                return [f"{model} comes in one size", "leave --width and --depth away"]
        elif load_checkpoint(model)[0].is_fused():
            return [
                "the weights were fused for inference, and do not train well any more",
                "name the checkpoint that they were made of, or a .yaml to begin with nothing",
            ]
        return []

    def train(
        self,
        *,
        model: str,
        scale: list[float],
        folder: str,
        settings: Mapping[str, Any],
        resume: bool,
        threads: int,
    ) -> dict[str, float]:
        """Train, and return the measures of the best weights.

        Args:
            model: weights in this folder, or a .yaml to start from nothing.
            scale: width and depth, where they are not the network's own; 0 is its own.
            folder: of the run.
            settings: Ultralytics' own, by name.
            resume: go on from the weights.
            threads: of the CPU.
        """
        import ultralytics.utils.torch_utils as torch_utils

        torch_utils.NUM_THREADS = threads  # it would leave one core idle
        if resume and not _unfinished(model):
            return _measured(Path(folder), settings)
        if any(scale) and not resume:
            model = _scaled(model, scale, Path(folder) / "model.yaml")
        given = {"resume": model} if resume else {"pretrained": model.endswith(".pt")}
        trainer = _trainer()(
            overrides={**settings, **given, "model": model, "save_dir": folder, "task": "detect"}
        )
        counts: dict[str, float] = {}
        for event, call in _callbacks(self._progress, counts).items():
            trainer.add_callback(event, call)
        trainer.train()
        found = {name: float(trainer.metrics.get(key, 0)) for name, key in METRICS.items()}
        return found | counts

    def open(self, *, weights: str, threads: int) -> dict[str, Any]:
        """Load a checkpoint and say what it is."""
        import torch
        from ultralytics import YOLO

        torch.set_num_threads(threads)
        self._network = YOLO(weights, task="detect")
        network, trained = self._network.model, (self._network.ckpt or {}).get("train_args") or {}
        return {
            "imgsz": trained.get("imgsz"),
            "stride": int(max(network.stride)),
            "head": type(network.model[-1]).__name__,
            "channels": network.yaml.get("channels", 3),
            "version": self._version,
        }

    def export(self, *, size: list[int], opset: int, limits: dict[str, float] | None) -> str:
        """Write the opened network as ONNX and return the name of the file in this folder.

        Args:
            size: height and width.
            opset: of the ONNX file.
            limits: put a suppression of overlaps inside, with this confidence and overlap.
        """
        inside = {"nms": True, **_suppression(limits)} if limits else {}
        made = self._network.export(
            format="onnx", imgsz=size, opset=opset, simplify=False, device="cpu", **inside
        )
        return Path(made).name

    def see(
        self, *, tensor: Floats, limits: dict[str, float], several: bool
    ) -> tuple[Floats, Floats]:
        """Return what the network itself makes of one input `(1, 3, H, W)`.

        Args:
            tensor: the pixels.
            limits: confidence and overlap.
            several: a place may speak once for each class, not for its best alone.

        Returns:
            Every prediction `(4 + classes, n)`, centre, size and scores, and after Ultralytics' own
            suppression rows of `x1 y1 x2 y2 score class`.
        """
        import torch
        from ultralytics.utils.nms import non_max_suppression

        network = self._network.model
        if hasattr(network, "end2end"):
            network.end2end = False  # as it is exported
        with torch.inference_mode():
            made = network(torch.from_numpy(tensor))
            made = made[0] if isinstance(made, tuple | list) else made
            raw = made[0].numpy().copy()
            found = non_max_suppression(
                made,
                limits["confidence"],
                limits["overlap"],
                multi_label=several,
                max_det=int(limits["most"]),
                # how far classes are moved apart: by its default of 7680 pixels, the overlaps of
                # classes with high numbers are only good to two digits
                max_wh=2 * max(tensor.shape),
            )
        return raw, found[0].numpy()


def _suppression(limits: Mapping[str, float]) -> dict[str, float]:
    return {"conf": limits["confidence"], "iou": limits["overlap"], "max_det": int(limits["most"])}


def _scaled(model: str, scale: list[float], path: Path) -> str:
    """Write a network's description with another width or depth, and return the file."""
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    notes = yaml_model_load(model)
    name = notes.pop("scale", "") or next(iter(notes["scales"]))
    depth, width, most = notes["scales"][name]
    notes["scales"] = {name: [scale[1] or depth, scale[0] or width, most]}
    notes.pop("yaml_file", None)
    path.write_text(yaml.safe_dump(notes, sort_keys=False))
    return str(path)


def _trainer() -> Any:
    """Ultralytics' trainer of detectors, whose checkpoints appear whole, and which tells nobody."""
    from ultralytics.engine import trainer as engine
    from ultralytics.models.yolo.detect import DetectionTrainer

    engine.strip_optimizer = _stripped
    engine.callbacks.add_integration_callbacks = lambda trainer: None

    class Trainer(DetectionTrainer):  # type: ignore[misc]
        last: Path
        best: Path

        def save_model(self) -> Any:
            last, best = self.last, self.best
            self.last, self.best = _part(last), _part(best)
            try:
                saved = super().save_model()
            finally:
                self.last, self.best = last, best
            _appear(best)
            _appear(last)
            return saved

    return Trainer


def _stripped(f: Path, s: str = "", updates: dict[str, Any] | None = None) -> Any:
    from ultralytics.utils.torch_utils import strip_optimizer

    made = strip_optimizer(f, str(_part(Path(f))), updates)
    _appear(Path(f))
    return made


def _part(path: Path) -> Path:
    return path.with_suffix(".part")


def _appear(path: Path) -> None:
    if _part(path).exists():
        with _part(path).open("rb") as file:
            os.fsync(file.fileno())
        _part(path).replace(path)


def _callbacks(progress: Progress, counts: dict[str, float]) -> dict[str, Callable[[Any], None]]:
    """What to do as training goes on; `counts` is told how many images there are."""
    batch, told, running = 0, 0.0, False

    def begun(trainer: Any) -> None:
        counts["images"] = len(trainer.train_loader.dataset)
        counts["val_images"] = len(trainer.test_loader.dataset)

    def epoch_begun(trainer: Any) -> None:
        nonlocal batch, running
        batch, running = 0, True

    def batch_done(trainer: Any) -> None:
        nonlocal batch, told
        batch += 1
        if time.monotonic() - told > PAUSE:
            told = time.monotonic()
            progress("batches", batch, len(trainer.train_loader))

    def epoch_done(trainer: Any) -> None:
        finite = trainer.loss is not None and math.isfinite(float(trainer.loss.detach()))
        if not finite and trainer.epoch == trainer.start_epoch:
            raise RuntimeError("the loss became NaN in the first epoch")  # later it recovers itself

    def measured(trainer: Any) -> None:
        nonlocal running
        if running:  # or it is the last look, at the best weights
            running = False
            progress("epochs", trainer.epoch + 1, trainer.epochs)

    return {
        "on_train_start": begun,
        "on_train_epoch_start": epoch_begun,
        "on_train_batch_end": batch_done,
        "on_train_epoch_end": epoch_done,
        "on_fit_epoch_end": measured,
    }


def _unfinished(last: str) -> bool:
    """Whether a checkpoint has epochs to go: at the end Ultralytics takes its optimizer away."""
    from ultralytics.nn.tasks import torch_safe_load

    checkpoint, _ = torch_safe_load(last)
    epochs = (checkpoint.get("train_args") or {}).get("epochs", 0)
    return 0 < int(checkpoint.get("epoch", -1)) + 1 < int(epochs)


def _measured(folder: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure the best weights of a training that was cut off after its last epoch."""
    from ultralytics import YOLO

    for path in (folder / "weights" / "last.pt", folder / "weights" / "best.pt"):
        _stripped(path)
    kept = {k: v for k, v in settings.items() if k in ("data", "imgsz", "batch", "device")}
    model = YOLO("best.pt", task="detect")
    found = model.val(**kept, plots=False, project=str(Path.cwd()), name="val").results_dict
    return {name: float(found.get(key, 0)) for name, key in METRICS.items()}
