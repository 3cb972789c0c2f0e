"""The optimization as its log tells it: the level that is really used, and each algorithm's turn.

Sources: public logs of DFC 3.28 and 3.33.1. What the script names as its level is kept; only the
default is reduced for want of data or of a GPU, and the log alone says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from hailo_model_optimization import gpu
from hailo_model_optimization.acceleras.utils.acceleras_exceptions import AccelerasValueError

from hailo_standin import knob, stage
from hailo_standin.calibration import ENOUGH, Data
from hailo_standin.emulate import (
    Quantized,
    Watch,
    is_sigmoid,
    modified,
    pixels_to_tensor,
    quantize,
    snr,
)
from hailo_standin.parse import Parsed
from hailo_standin.recipe import Recipe
from hailo_standin.said import bar, clock, info, since, warning

CALIBSET = 64
RATIO = 0.2  # of the weights in 4 bits, for each level of compression
LARGE = 20_000_000  # weights from which the first level of compression does something by itself
USELESS = "(the accuracy won't be optimized and compression won't be used)"
PHOTOS = 4  # on which noise is measured
LAW = "More than half"

UNNORMALIZED = """\
The calibration set seems to not be normalized, because the values range is {ranges}.
Since the neural core works in 8-bit (between 0 to 255), a quantization will occur on the CPU of the runtime platform.
Add a normalization layer to the model to offload the normalization to the neural core.
Refer to the user guide Hailo Dataflow Compiler user guide / Model Optimization / Optimization Related Model Script Commands / model_modification_commands / normalization for details."""


@dataclass(frozen=True)
class Effort:
    """What is really done."""

    level: int
    compression: int
    calibset: int
    finetune: int  # entries; 0 for none
    bias: bool
    adaround: bool
    noise: bool

    @property
    def care(self) -> int:
        """How well the emulation chooses: 0, 1 or 2."""
        return 2 if self.finetune or self.adaround else int(self.bias)


def effort(recipe: Recipe, entries: int) -> Effort:
    """Decide what is done, and say what is not."""
    level = _level(recipe, entries)
    compression = recipe.compression if recipe.compression is not None else 1
    if compression and level <= 1:
        warning(
            "Reducing compression level to 0 because requested optimization level equal or less than 1"
        )
        compression = 0
    if level <= 0:
        warning("Running model optimization with zero level of optimization is not recommended for "
                "production use and might lead to suboptimal accuracy results")  # fmt: skip
    if recipe.calibset is not None and recipe.calibset > entries and entries < ENOUGH:
        raise AccelerasValueError(
            f"calibset_size={recipe.calibset} is larger than the dataset, which has {entries} entries"
        )
    policy = recipe.finetune.policy
    tuned = policy in ("enabled", "allowed") if policy else level == 2
    return Effort(
        level,
        compression,
        min(recipe.calibset or CALIBSET, entries),
        recipe.finetune.dataset if tuned else 0,
        recipe.bias_correction == "enabled" or (level == 1 and not recipe.bias_correction),
        recipe.adaround == "enabled" or (level >= 3 and not recipe.adaround),
        recipe.noise == "enabled" or (level >= 2 and not recipe.noise),
    )


def _level(recipe: Recipe, entries: int) -> int:
    level = 2 if recipe.level is None else recipe.level
    if recipe.level is not None and knob("REDUCE") != "always":
        return level
    few, alone = entries < ENOUGH, not gpu()
    why = f"there's less data than the recommended amount ({ENOUGH})"
    least, reason = level, ""
    if alone:
        least = min(level, 0)
        reason = f"{why}, and there's no available GPU" if few else "there's no available GPU"
    elif few:
        least, reason = min(level, 1), why
    if least < level:
        warning(f"Reducing optimization level to {least} {USELESS} because {reason}")
    elif recipe.level is None:
        info(f"Using default optimization level of {level}")
    return least


def optimize(parsed: Parsed, recipe: Recipe, data: Data) -> tuple[Quantized, Effort]:
    """Calibrate and quantize a network."""
    stage("optimize")
    if since(3, 30):
        info("Found model with 3 input channels, using real RGB images for calibration instead of "
             "sampling random data.")  # fmt: skip
    info("Starting Model Optimization")
    done = effort(recipe, data.entries)
    info("Model received quantization params from the hn")
    steps = _New() if since(3, 30) else _Old()
    watch = Watch(modified(parsed, recipe), parsed, recipe)
    narrow = _narrow(parsed, recipe, done)
    steps.before()
    with steps("Statistics Collector"):
        _calibrate(watch, data, done)
    _force(watch)
    wide = _wide(parsed, recipe)
    made = quantize(watch, done.care, narrow, wide)
    steps.middle()
    _after(steps, watch, data, done)
    with steps("Layer Noise Analysis", skipped=not done.noise):
        if done.noise:
            for _ in bar("Full Quant Analysis", range(PHOTOS), PHOTOS):
                pass
    if done.noise:
        _say_noise(watch, made, data)
    _say_range(watch)
    info("Model Optimization is done")
    return made, done


def _calibrate(watch: Watch, data: Data, done: Effort) -> None:
    info(f"Using dataset with {done.calibset} entries for calibration")
    for frame in bar("Calibration", data.first(done.calibset), done.calibset):
        watch.take(pixels_to_tensor(watch.network, frame))


def _force(watch: Watch) -> None:
    """Say which outputs get the whole range of a sigmoid."""
    if watch.recipe.post is not None:
        return
    for name, tensor in watch.network.tensors.items():
        low, high = watch.range(tensor)
        if is_sigmoid(watch, name):
            info(f"Output layer {watch.parsed.network.name}/{name} with sigmoid activation was detected. "
                 f"Forcing its output range to be [0, 1] (original range was [{low:.3f}, {high:.3f}]).")  # fmt: skip


def _narrow(parsed: Parsed, recipe: Recipe, done: Effort) -> list[str]:
    """Return the layers whose weights get 4 bits, and say so: the largest first."""
    layers = [x for x in parsed.network.layers if x.weighted]
    sizes = {x.name: parsed.network.kernel(x).size for x in layers}
    total = sum(sizes.values())
    asked = recipe.compression is not None or total > LARGE
    ratio = max(recipe.ratio, RATIO * done.compression if asked else 0.0)
    found = list(recipe.four)
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        if sum(sizes[n] for n in found) + sizes[name] <= ratio * total and name not in found:
            found.append(name)
            info(f"Assigning 4bit weights to layer {parsed.network.name}/{name} with "
                 f"{sizes[name] / 1000:.2f}k parameters")  # fmt: skip
    if ratio and total:
        info(f"Ratio of weights in 4bit is {sum(sizes[n] for n in found) / total:.2f}")
    return found


def _wide(parsed: Parsed, recipe: Recipe) -> list[str]:
    """Return the layers whose output gets 16 bits; outputs may lose them."""
    last = {x.name: e for x, e in zip(parsed.network.outputs, parsed.network.ends, strict=True)}
    lost = [n for n in recipe.wide if n in last and knob("DEMOTE")]
    if knob("DEMOTE") == "log":
        for name in sorted(lost):
            warning(
                f"Reducing output bits of {parsed.network.scoped(last[name])} by 8.0 bits ({LAW})"
            )
    return sorted(recipe.wide - set(lost))


def _after(steps: "_Steps", watch: Watch, data: Data, done: Effort) -> None:
    for title, wanted in (("Bias Correction", done.bias), ("Adaround", done.adaround)):
        with steps(title, skipped=not wanted):
            if wanted:
                for _ in bar(title, range(3), 3):
                    pass
    with steps("Quantization-Aware Fine-Tuning", skipped=not done.finetune):
        if done.finetune:
            _finetune(watch.recipe, data, done.finetune)


def _finetune(recipe: Recipe, data: Data, wanted: int) -> None:
    used = min(wanted, data.entries) if data.entries < ENOUGH else wanted
    if used < wanted:
        warning("Quantization-Aware Fine-Tuning: Dataset didn't have enough data for dataset_size "
                f"of {wanted}")  # fmt: skip
    elif data.entries > wanted:
        warning(
            "Dataset is larger than expected size. Increasing the algorithm dataset size might "
            "improve the results"
        )
    info(f"Using dataset with {used} entries for finetune")
    for epoch in range(1, recipe.finetune.epochs + 1):
        print(f"Epoch {epoch}/{recipe.finetune.epochs}", flush=True)
        print(f"{used}/{used} - 1s 9ms/step - total_distill_loss: {0.5 / epoch:.4f}", flush=True)


def _say_noise(watch: Watch, made: Quantized, data: Data) -> None:
    info(
        "Output layers signal-to-noise ratio (SNR): measures the quantization noise (higher is better)"
    )
    found = snr(watch, made, data.first(PHOTOS))
    for end, (_, ratio) in zip(watch.parsed.network.ends, found.items(), strict=True):
        info(f"\t{watch.parsed.network.scoped(end)} SNR:\t{ratio:.4g} dB")


def _say_range(watch: Watch) -> None:
    """Say that the pixels are no pixels; only where the script does not normalize."""
    if watch.recipe.normalization is not None:
        return
    stats = watch.seen[watch.network.model.inputs[0].name]
    if float(np.max(stats.high)) <= 2.0:
        pairs = [
            (round(float(a), 3), round(float(b), 3))
            for a, b in zip(stats.low, stats.high, strict=True)
        ]
        info(UNNORMALIZED.format(ranges=pairs))


# What is said of each algorithm


class _Steps:
    """One version's words for the algorithms. Used as `with steps(title): …`."""

    names: ClassVar[Mapping[str, str]] = {}
    done = "{} is done (completion time is {})"

    def __call__(self, title: str, skipped: bool = False) -> "_Step":
        return _Step(self.names.get(title, title), self.done, skipped)

    def before(self) -> None:
        """Speak of what comes before the calibration."""

    def middle(self) -> None:
        """Speak of what comes between it and the corrections."""

    def _skip(self, *titles: str) -> None:
        for title in titles:
            with self(title, skipped=True):
                pass

    def _do(self, *titles: str) -> None:
        for title in titles:
            with self(title):
                pass


class _New(_Steps):
    """DFC 3.33."""

    done = "Model Optimization Algorithm {} is done (completion time is {})"

    def before(self) -> None:
        self._skip("MatmulDecompose")
        self._do("Mixed Precision")
        self._skip("LayerNorm Decomposition")

    def middle(self) -> None:
        self._do("Fix zp_comp Encoding")
        self._skip("Matmul Equalization")
        self._do("MatmulDecomposeFix")
        self._skip("Finetune encoding")


class _Old(_Steps):
    """DFC 3.28."""

    names: ClassVar = {
        "Statistics Collector": "Stats Collector",
        "Quantization-Aware Fine-Tuning": "Fine Tune",
    }

    def before(self) -> None:
        self._do("Mixed Precision")
        self._skip("Layer Norm Decomposition")

    def middle(self) -> None:
        self._do("Fix zp_comp Encoding")
        self._skip("matmul_equalization", "Finetune encoding")


class _Step:
    def __init__(self, title: str, done: str, skipped: bool) -> None:
        self._title, self._done, self._skipped = title, done, skipped

    def __enter__(self) -> None:
        if self._skipped:
            info(f"{self._title} skipped")
        else:
            info(f"Starting {self._title}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._skipped:
            info(self._done.format(self._title, clock(0.0)))
