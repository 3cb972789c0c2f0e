"""How good the forecast for Hailo's chips is, and where its constants come from.

Fits contexts and speed on the detectors of Hailo's model zoo (references/hailo_bench.csv beside
the data), each time without the network that is forecast, prints how often the contexts are right
and how far off the speeds are, and compares the constants with the committed ones.

    python benchmarks/hailo_forecast.py            print
    python benchmarks/hailo_forecast.py --write    also write src/onchip/targets/hailo/forecast.toml
"""

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import DATA, ROOT
from onchip.targets.hailo.forecast import Chip, Network, Rule, Speed, fits

TABLE = DATA.parent / "references" / "hailo_bench.csv"
TOML = ROOT / "src" / "onchip" / "targets" / "hailo" / "forecast.toml"
SOURCES = {
    "hailo8": ("v2.18", "compiler 3.33.1 (zoo v2.18)"),
    "hailo8l": ("v2.18", "compiler 3.33.1 (zoo v2.18)"),
    "hailo10h": ("HEAD(c83fc03,v5.2.0)", "compiler 5.2.0 (zoo v5.2.0)"),
    "hailo15h": ("HEAD(c83fc03,v5.2.0)", "compiler 5.2.0 (zoo v5.2.0)"),
    "hailo15l": ("HEAD(c83fc03,v5.2.0)", "compiler 5.2.0 (zoo v5.2.0)"),
}
SAME = 0.02  # batch 8 no faster than batch 1: nothing is loaded between, one context
ATTENTION = ("yolov10", "yolov11", "yolov12", "yolo26", "detr", "yolov5s_c3tr")

# Convolutions that are not depthwise: the highest convN that the zoo's scripts and NMS files name,
# or what the architecture has where they name none (Darknet). Networks without are left out.
CONVOLUTIONS = {
    "centernet_resnet_v1_18_postprocess": 30, "centernet_resnet_v1_50_postprocess": 63,
    "damoyolo_tinynasL20_T": 77, "damoyolo_tinynasL25_S": 83, "damoyolo_tinynasL35_M": 109,
    "detr_resnet_v1_18_bn": 116, "efficientdet_lite0": 102, "efficientdet_lite1": 120,
    "efficientdet_lite2": 128, "nanodet_repvgg_a12": 49, "ssd_mobilenet_v1": 34,
    "ssd_mobilenet_v2": 55, "tiny_yolov3": 13, "tiny_yolov4": 21, "yolo26m": 104, "yolo26n": 94,
    "yolo26s": 94, "yolov10b": 89, "yolov10n": 69, "yolov10s": 69, "yolov10x": 109,
    "yolov11l": 165, "yolov11m": 105, "yolov11n": 80, "yolov11s": 80, "yolov11x": 165,
    "yolov12n": 105, "yolov3": 75, "yolov3_416": 75, "yolov3_gluon": 75, "yolov3_gluon_416": 75,
    "yolov4_leaky": 110, "yolov5m": 94, "yolov5m6_6.1": 107, "yolov5m_6.1": 82,
    "yolov5m_wo_spp": 93, "yolov5s": 70, "yolov5s_c3tr": 70, "yolov5s_wo_spp": 70,
    "yolov5xs_wo_spp": 69, "yolov6n": 59, "yolov7": 92, "yolov7_tiny": 58, "yolov7e6": 145,
    "yolov7x": 108, "yolov8l": 103, "yolov8m": 83, "yolov8n": 63, "yolov8s": 63, "yolov8x": 103,
    "yolov9c": 144, "yolox_l_leaky": 131, "yolox_s_leaky": 83, "yolox_s_wide_leaky": 83,
    "yolox_tiny": 83,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network on one chip, as the zoo lists it."""

    name: str
    network: Network
    batch1: float
    batch8: float

    @property
    def one(self) -> bool:
        """Whether it is one context."""
        return abs(self.batch1 - self.batch8) <= SAME * max(self.batch1, self.batch8)


def rows(arch: str) -> list[Row]:
    """Read the detectors of one chip; twins of one network and decoding on the chip left out."""
    found = []
    with TABLE.open() as file:
        for line in csv.DictReader(file):
            name = line["model"]
            if (line["source"], line["arch"]) != (SOURCES[arch][0], arch):
                continue
            numbers = [line[k] for k in ("fps_b1", "fps_b8", "params_m", "ops_g")]
            if line["task"] != "object_detection" or name not in CONVOLUTIONS or "" in numbers:
                continue
            batch1, batch8, weights, operations = map(float, numbers)
            network = Network(
                operations=operations,
                weights=weights,
                convolutions=CONVOLUTIONS[name],
                attention=name.startswith(ATTENTION),
                largest=0,
            )
            found.append(Row(name, network, batch1, batch8))
    return found


def rule(given: Sequence[Row]) -> Rule:
    """The thresholds that are right most often; of equal ones the middle."""
    weights = sorted({r.network.weights for r in given})
    counts = sorted({r.network.convolutions for r in given})
    best: list[Rule] = []
    most = -1
    for attention in (False, True):
        for most_weights in weights:
            for most_convolutions in counts:
                tried = Rule(
                    weights=most_weights, convolutions=most_convolutions, attention=attention,
                    one=(0, 0), several=(0, 0),
                )  # fmt: skip
                right = sum(fits(r.network, tried) == r.one for r in given)
                if right > most:
                    best, most = [], right
                if right == most:
                    best.append(tried)
    return best[len(best) // 2]


def features(row: Row, *, one: bool) -> list[float]:
    net = row.network
    logs = [math.log(v) for v in (net.operations, net.weights, net.convolutions)]
    return [1.0, *logs, float(one)]


def solve(given: Sequence[Row], found: Rule, batch: str) -> np.ndarray:
    x = np.array([features(r, one=fits(r.network, found)) for r in given])
    y = np.array([math.log(getattr(r, batch)) for r in given])
    if not x[:, 4].any():
        return np.append(np.linalg.lstsq(x[:, :4], y, rcond=None)[0], 0.0)
    return np.linalg.lstsq(x, y, rcond=None)[0]


def left_out(given: Sequence[Row], batch: str) -> tuple[list[float], list[tuple[bool, bool]]]:
    """Forecast each network from the others: log errors, and (said, is) one context."""
    errors, said = [], []
    for row in given:
        others = [r for r in given if r is not row]
        found = rule(others) if batch == "batch8" else CACHE[(len(given), row.name)]
        CACHE[(len(given), row.name)] = found
        one = fits(row.network, found)
        log = float(np.dot(features(row, one=one), solve(others, found, batch)))
        errors.append(math.log(getattr(row, batch)) - log)
        said.append((one, row.one))
    return errors, said


CACHE: dict[tuple[int, str], Rule] = {}


def speed(given: Sequence[Row], found: Rule, batch: str, errors: Sequence[float]) -> Speed:
    base, operations, weights, convolutions, one = solve(given, found, batch)
    low, high = np.exp(np.quantile(errors, (0.05, 0.95)))
    values = {
        "base": base, "operations": operations, "weights": weights, "convolutions": convolutions,
        "one": one, "low": low, "high": high,
    }  # fmt: skip
    return Speed(**{k: round(float(v), 3) for k, v in values.items()})


def counted(said: Sequence[tuple[bool, bool]], which: bool) -> tuple[int, int]:
    mine = [real for one, real in said if one is which]
    return sum(real is which for real in mine), len(mine)


def span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def fitted(arch: str) -> Chip:
    """Fit one chip and print how good it is on networks that were left out."""
    given = rows(arch)
    CACHE.clear()
    errors8, said = left_out(given, "batch8")
    errors1, _ = left_out(given, "batch1")
    found = rule(given)
    right = sum(a == b for a, b in said)
    ones = sum(r.one for r in given)
    print(f"\n{arch}, {SOURCES[arch][1]}: {len(given)} networks, {ones} of one context")
    always = max(ones, len(given) - ones)
    print(f"  contexts right: {right} of {len(given)} (always the same answer: {always})")
    for (one, real), row in zip(said, given, strict=True):
        if one != real:
            print(f"    said {'one' if one else 'several'}: {row.name}")
    for name, errors in (("batch 1", errors1), ("batch 8", errors8)):
        middle, ninth, worst = np.exp(np.quantile(np.abs(errors), (0.5, 0.9, 1)))
        print(f"  FPS {name} off by x{middle:.2f} (median), x{ninth:.2f} (p90), x{worst:.2f} (max)")
    several = [r.batch8 / r.batch1 for r in given if not r.one]
    if several:
        print(f"  several contexts: batch 8 is {np.median(several):.1f} times batch 1 (median)")
    return Chip(
        source=SOURCES[arch][1],
        networks=len(given),
        operations=span([r.network.operations for r in given]),
        weights=span([r.network.weights for r in given]),
        rule=Rule(
            weights=found.weights,
            convolutions=found.convolutions,
            attention=found.attention,
            one=counted(said, True),
            several=counted(said, False),
        ),
        batch1=speed(given, found, "batch1", errors1),
        batch8=speed(given, found, "batch8", errors8),
    )


def text(chips: dict[str, Chip]) -> str:
    lines = [
        "# Fitted by benchmarks/hailo_forecast.py on the speeds that Hailo's model zoo publishes.",
        "# What each key means stands in forecast.py.",
    ]
    for name, chip in chips.items():
        lines += ["", f"[{name}]", f'source = "{chip.source}"']
        lines += [
            f"{k} = {_plain(getattr(chip, k))}" for k in ("networks", "operations", "weights")
        ]
        for part in ("rule", "batch1", "batch8"):
            value = getattr(chip, part)
            fields = ", ".join(
                f"{f} = {_plain(getattr(value, f))}" for f in value.__struct_fields__
            )
            lines.append(f"{part} = {{ {fields} }}")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def main() -> None:
    found = text({arch: fitted(arch) for arch in SOURCES})
    same = TOML.is_file() and TOML.read_text() == found
    print(f"\nthe committed constants are {'these' if same else 'others'}")
    if "--write" in sys.argv:
        TOML.write_text(found)


if __name__ == "__main__":
    main()
