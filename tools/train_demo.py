"""Train the detector of `onchip demo` on scenes that this project draws, and export it to ONNX.

    python tools/train_demo.py --work runs/demo --out src/onchip/demo/detector.onnx

A small network of our own with the layout of a YOLOv8 head: a box branch that gives a distribution
over 16 distances per side, and a class branch, on three grids. About a quarter of an hour on one core.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onchip.demo.scenes import LABELS, render
from onchip.detect.program import FOR_ACCURACY, Program
from onchip.graph.clean import clean
from onchip.graph.prove import cut
from onchip.graph.read import read
from onchip.graph.run import Runner
from onchip.measure.accuracy import accuracy, match
from onchip.spec import InputSpec
from onchip.vision.preprocess import letterbox

SIZE, BINS, CLASSES = 320, 16, len(LABELS)
STRIDES = (8, 16, 32)
SPEC = InputSpec(name="images", width=SIZE, height=SIZE)
VAL_SEED = 900_000


def conv(c1: int, c2: int, k: int = 3, s: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c1, c2, k, s, k // 2, bias=False), nn.BatchNorm2d(c2, eps=1e-3), nn.SiLU()
    )


class Block(nn.Module):
    """Half of the channels pass two convolutions with a shortcut; both halves are joined."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.half = c2 // 2
        self.first = conv(c1, c2, 1)
        self.inner = nn.Sequential(conv(self.half, self.half), conv(self.half, self.half))
        self.last = conv(c2 + self.half, c2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split((self.half, self.half), 1)
        return self.last(torch.cat((a, b, b + self.inner(b)), 1))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 24, 3, 2))
        self.p3 = nn.Sequential(conv(24, 48, 3, 2), Block(48, 48))
        self.p4 = nn.Sequential(conv(48, 80, 3, 2), Block(80, 80))
        self.p5 = nn.Sequential(conv(80, 112, 3, 2), Block(112, 112))
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mix = conv(224, 112, 1)
        self.up4, self.up3 = Block(192, 64), Block(112, 48)
        self.down4, self.down5 = conv(48, 48, 3, 2), conv(64, 64, 3, 2)
        self.out4, self.out5 = Block(112, 64), Block(176, 96)
        widths = (48, 64, 96)
        self.box = nn.ModuleList(
            nn.Sequential(conv(w, 32), nn.Conv2d(32, 4 * BINS, 1)) for w in widths
        )
        self.kind = nn.ModuleList(
            nn.Sequential(conv(w, 32), nn.Conv2d(32, CLASSES, 1)) for w in widths
        )
        for box, kind, stride in zip(self.box, self.kind, STRIDES, strict=True):
            box[-1].bias.data.fill_(1.0)
            kind[-1].bias.data.fill_(math.log(5 / CLASSES / (SIZE / stride) ** 2))

    def features(self, x: Tensor) -> list[Tensor]:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        p5 = self.mix(torch.cat((p5, self.pool(p5)), 1))
        n4 = self.up4(torch.cat((F.interpolate(p5, scale_factor=2.0), p4), 1))
        n3 = self.up3(torch.cat((F.interpolate(n4, scale_factor=2.0), p3), 1))
        n4 = self.out4(torch.cat((self.down4(n3), n4), 1))
        return [n3, n4, self.out5(torch.cat((self.down5(n4), p5), 1))]

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distributions (n, 4 * bins, cells) and class logits (n, classes, cells)."""
        maps = self.features(x)
        boxes = [b(m).flatten(2) for b, m in zip(self.box, maps, strict=True)]
        kinds = [k(m).flatten(2) for k, m in zip(self.kind, maps, strict=True)]
        return torch.cat(boxes, 2), torch.cat(kinds, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Centre, size and scores, (n, 4 + classes, cells), boxes in input pixels."""
        box, kind = self.raw(x)
        n, _, cells = box.shape
        steps = torch.arange(BINS, dtype=torch.float32).view(1, 1, BINS, 1)
        sides = (box.view(n, 4, BINS, cells).softmax(2) * steps).sum(2)
        points, strides = grid()
        low, high = points - sides[:, :2], points + sides[:, 2:]
        return torch.cat(((low + high) / 2 * strides, (high - low) * strides, kind.sigmoid()), 1)


def grid() -> tuple[Tensor, Tensor]:
    """Points (2, cells) in grid units and strides (1, cells)."""
    points, strides = [], []
    for stride in STRIDES:
        side = SIZE // stride
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        points.append(torch.stack((x, y)).flatten(1).float() + 0.5)
        strides.append(torch.full((1, side * side), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes (..., 4), for loss and assignment."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(0).prod(-1)
    wa, wb = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    iou = inter / (wa.prod(-1) + wb.prod(-1) - inter + 1e-7)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).pow(2).sum(-1)
    angle = torch.atan(wb[..., 0] / (wb[..., 1] + 1e-7)) - torch.atan(
        wa[..., 0] / (wa[..., 1] + 1e-7)
    )
    shape = 4 / math.pi**2 * angle.pow(2)
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - apart / (outer.pow(2).sum(-1) + 1e-7) - weight * shape


def assign(
    scores: Tensor, boxes: Tensor, truth: Tensor, labels: Tensor, points: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each cell at most one true box, by how well it already predicts it.

    Returns the chosen true box of each cell, the target score, and which cells are positive.
    """
    inside = (points[None, :, :] - truth[:, None, :2]).min(-1).values > 0
    inside &= (truth[:, None, 2:] - points[None, :, :]).min(-1).values > 0
    iou = overlap(truth[:, None], boxes[None]).clamp(0) * inside
    metric = scores[:, labels].T.sqrt() * iou.pow(6)
    top = metric.topk(min(10, metric.shape[1]), dim=1)
    mask = torch.zeros_like(metric).scatter_(1, top.indices, 1.0) * (metric > 1e-9)
    best = (iou * mask).argmax(0)
    positive = mask.sum(0) > 0
    mask = F.one_hot(best, len(truth)).T.float() * mask
    metric = metric * mask
    scale = (iou * mask).amax(1, keepdim=True) / (metric.amax(1, keepdim=True) + 1e-9)
    return best, (metric * scale).amax(0), positive & (mask.sum(0) > 0)


def loss(model: Detector, images: Tensor, truths: list[tuple[Tensor, Tensor]]) -> Tensor:
    box, kind = model.raw(images)
    points, strides = grid()
    n, _, cells = box.shape
    logits = box.view(n, 4, BINS, cells)
    sides = (logits.softmax(2) * torch.arange(BINS).float().view(1, 1, BINS, 1)).sum(2)
    corners = torch.cat((points - sides[:, :2], points + sides[:, 2:]), 1) * strides
    total, amount = images.new_zeros(3), images.new_zeros(())
    for i, (truth, labels) in enumerate(truths):
        target = torch.zeros_like(kind[i])
        if len(truth):
            with torch.no_grad():
                found = corners[i].T, kind[i].sigmoid().T
                best, score, positive = assign(
                    found[1], found[0], truth, labels, (points * strides).T
                )
            where = positive.nonzero().squeeze(1)
            target[labels[best[where]], where] = score[where]
            wanted, weight = truth[best[where]], score[where]
            total[0] += ((1 - overlap(corners[i].T[where], wanted)) * weight).sum()
            total[1] += (
                distribution(logits[i][:, :, where], wanted, points, strides, where) * weight
            ).sum()
            amount = amount + weight.sum()
        total[2] += F.binary_cross_entropy_with_logits(kind[i], target, reduction="sum")
    return (total * images.new_tensor((7.5, 1.5, 0.5))).sum() / amount.clamp(1)


def distribution(
    logits: Tensor, wanted: Tensor, points: Tensor, strides: Tensor, where: Tensor
) -> Tensor:
    """Cross entropy of the two bins around the true distance, mean of the four sides."""
    center, stride = points.T[where], strides.T[where]
    distance = torch.cat((center - wanted[:, :2] / stride, wanted[:, 2:] / stride - center), 1)
    distance = distance.clamp(0, BINS - 1.01)
    low = distance.long()
    part = distance - low
    flat = logits.permute(2, 0, 1).reshape(-1, BINS)
    below = F.cross_entropy(flat, low.view(-1), reduction="none").view(-1, 4)
    above = F.cross_entropy(flat, low.view(-1) + 1, reduction="none").view(-1, 4)
    return (below * (1 - part) + above * part).mean(1)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, truth = render(seed)
    canvas, box = letterbox(image, SPEC)
    return canvas[:, :, ::-1], box.apply(truth.boxes), truth.classes


def batch(
    cache: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rng: np.random.Generator, size: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Draw scenes, mirrored at random and with other brightness, shifted and enlarged alike."""
    images, truths = [], []
    for index in rng.integers(len(cache), size=size):
        pixels, boxes, labels = cache[index]
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        boxes = boxes.copy()
        if rng.random() < 0.5:
            image, boxes = (
                image.flip(2),
                boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (SIZE, 0, SIZE, 0),
            )
        if rng.random() < 0.7:
            image, boxes, labels = zoom(image, boxes, labels, rng)
        image = (image * rng.uniform(0.75, 1.25) + rng.uniform(-0.06, 0.06)).clamp(0, 1)
        images.append(image)
        truths.append((torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)))
    return torch.stack(images).contiguous(memory_format=torch.channels_last), truths


def zoom(
    image: Tensor, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Scale by the same factor both ways and shift; boxes that leave the picture are cut or go."""
    factor = rng.uniform(0.7, 1.5)
    shift = rng.uniform(-0.2, 0.2, 2)
    theta = torch.tensor(
        [[[1 / factor, 0, -shift[0] / factor], [0, 1 / factor, -shift[1] / factor]]]
    )
    place = F.affine_grid(theta.float(), [1, 3, SIZE, SIZE], align_corners=False)
    moved = F.grid_sample(image[None] - 114 / 255, place, align_corners=False)[0] + 114 / 255
    offset = np.tile(shift * SIZE / 2, 2)
    new = (boxes - SIZE / 2) * factor + SIZE / 2 + offset
    cut_ = np.clip(new, 0, SIZE)
    area = (new[:, 2:] - new[:, :2]).prod(1)
    keep = (cut_[:, 2:] - cut_[:, :2]).clip(0).prod(1) > 0.6 * area
    keep &= (cut_[:, 2:] - cut_[:, :2]).min(1) > 5
    return moved, cut_[keep].astype(np.float32), labels[keep]


def export(model: Detector, path: Path) -> None:
    plain = Detector()
    plain.load_state_dict(model.state_dict())
    torch.onnx.export(
        plain.eval(),
        (torch.zeros(1, 3, SIZE, SIZE),),
        str(path),
        input_names=["images"],
        output_names=["output0"],
        opset_version=17,
        dynamo=False,
    )
    proto = onnx.load(path)
    notes = {
        "description": "onchip demo detector",
        "author": "the onchip authors",
        "license": "Apache-2.0",
        "task": "detect",
        "names": str(dict(enumerate(LABELS))),
        "stride": "32",
        "imgsz": f"[{SIZE}, {SIZE}]",
        "color": "rgb",
        "mean": "[0, 0, 0]",
        "std": "[255, 255, 255]",
        "letterbox": "center",
        "pad": "114",
    }
    onnx.helper.set_model_props(proto, notes)
    onnx.save(proto, path)


def evaluate(path: Path, count: int = 64, **changes: object) -> tuple[float, float]:
    """mAP50-95 and mAP50 of the exported file on scenes that training never saw."""
    found = cut(clean(read(path)).model)
    spec = InputSpec(name="images", width=SIZE, height=SIZE, **changes)  # type: ignore[arg-type]
    program = Program(Runner(found.model.bytes, 1), spec, found.head)
    matches = []
    for seed in range(VAL_SEED, VAL_SEED + count):
        image, truth = render(seed)
        matches.append(match(program(image, FOR_ACCURACY), truth, CLASSES))
    result = accuracy(matches, CLASSES, resamples=0)
    return result.map50_95, result.map50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("src/onchip/demo/detector.onnx"))
    parser.add_argument("--scenes", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.work / "state.pt"
    model, average, step = Detector(), Detector(), 0
    model.to(memory_format=torch.channels_last)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    average.load_state_dict(model.state_dict())
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.99))
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    cache = [scene(seed) for seed in range(options.scenes)]
    started = time.time()
    while step < options.steps:
        rng = np.random.default_rng(step)
        rate = min(1.0, (step + 1) / 100) * (
            0.02 + 0.98 * (1 + math.cos(math.pi * step / options.steps)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        model.train()
        images, truths = batch(cache, rng, options.batch)
        value = loss(model, images, truths)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        keep = min(0.998, step / (step + 20))
        with torch.no_grad():
            for a, b in zip(
                average.state_dict().values(), model.state_dict().values(), strict=True
            ):
                a.copy_(a * keep + b * (1 - keep) if a.is_floating_point() else b)
        if step % 25 == 0:
            print(step, f"{value.item():.3f}", f"{time.time() - started:.0f} s", flush=True)
        if step % 200 == 0 or step == options.steps:
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                },
                state,
            )
            export(average, options.out)
            print("mAP50-95, mAP50:", evaluate(options.out), flush=True)
    print("right input", evaluate(options.out))
    print("bgr", evaluate(options.out, color="bgr"))
    print("stretched", evaluate(options.out, letterbox="stretch"))


if __name__ == "__main__":
    main()
