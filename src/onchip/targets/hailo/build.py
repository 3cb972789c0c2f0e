"""Drive Hailo's compiler: quantize at each level that is asked for, keep the best, compile it.

Every stage leaves a HAR behind, so that what comes later can be done again without what came
before: where the network does not fit the chip, only that is tried anew.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.formats import hef as hef_file
from onchip.formats.hef_verdicts import Expected
from onchip.formats.hef_verdicts import verdicts as hef_verdicts
from onchip.spec import InputSpec, Verdict
from onchip.targets.hailo import calibration, guard
from onchip.targets.hailo.emulate import QUANTIZED, Loaded, load
from onchip.targets.hailo.names import differences, predicted
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.hailo.orders import Order, orders
from onchip.targets.hailo.script import NMS_FILE
from onchip.targets.target import Compiled, Job
from onchip.toolchains.install import Environment
from onchip.toolchains.known import explain
from onchip.toolchains.worker import Worker

if TYPE_CHECKING:
    from onchip.graph.run import Array

TOOL = "hailo"
PACKAGE = "hailo-dataflow-compiler"  # what its wheel is called
PROBES = 8  # photos on which what was built is compared with the float network
LOW = 0.5  # of agreement: less is worth a warning
MODEL_FILE = "model.onnx"
SAID = frozenset({"multi_context"})  # by the compiler's log already
LONG = 24 * 3600.0  # seconds that one stage may take: level 4 on a CPU takes hours


class About(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a quantized HAR was made of, and how well it agrees with the float network, 0 to 1."""

    key: str
    level: int
    agreement: float
    photos: int


@dataclass(frozen=True)
class Quantized:
    """A network quantized at one level: HARs of before and after, and what the compiler said.

    `boxes` is the text of the file that the script in the HAR names, where it names one.
    """

    order: Order
    about: About
    parsed: bytes
    har: bytes
    boxes: str
    log: str

    @property
    def parts(self) -> dict[str, tuple[str, bytes]]:
        """What is kept of it beside the program, and if there will be none."""
        return {
            "har_parsed": ("parsed.har", self.parsed),
            "har_quantized": ("quantized.har", self.har),
            "har_about": ("har.json", msgspec.json.encode(self.about)),
            **({"nms": (NMS_FILE, self.boxes.encode())} if self.boxes else {}),
        }


@dataclass(frozen=True)
class Site:
    """Where a build happens: for which chip, with which compiler, and on which GPU, "" is none."""

    chip: str
    environment: Environment
    gpu: str = ""

    @property
    def tool(self) -> str:
        """The compiler, for people."""
        return f"Hailo's compiler {self.environment.version}"

    def worker(self, options: HailoOptions) -> Worker:
        """Start the compiler."""
        return Worker(
            self.environment,
            "hailo_calls",
            self.tool,
            memory_mb=options.memory_mb,
            settings=self._settings(),
        )

    def _settings(self) -> dict[str, str]:
        """Variables without which the compiler fails, or silently does less."""
        # it does not compile where nobody has a name, as in containers
        named = {"USER": os.environ.get("USER") or "onchip"}
        # named before it loads: by itself it takes only a GPU that is nearly unused
        return named | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})


def build(site: Site, job: Job, options: HailoOptions) -> Compiled:
    """Quantize at every level, keep what agrees best with the float network, and compile that.

    Args:
        site: where.
        job: what.
        options: what the user decided.

    Raises:
        InputError: there are no calibration photos.
        ToolError: the compiler failed, or did less than it was asked to.
        UnsupportedError: the compiler cannot translate the network up to its head.
    """
    spec = calibration.taken(job.input, rgb=options.rgb)
    with tempfile.TemporaryDirectory(prefix="onchip-") as place:
        photos = Path(place)
        count = calibration.written(job, spec, photos)
        gpu, wide, seen = bool(site.gpu), job.plan.wide, _digest(photos)
        found = [
            _quantized(site, job, order, photos, seen)
            for order in orders(site.chip, job, options, count, gpu=gpu, wide=wide)
        ]
    done = [x for x in found if isinstance(x, Quantized)]
    failed = [x for x in found if isinstance(x, ToolError)]
    if not done:
        raise failed[0]
    best = max(done, key=lambda x: x.about.agreement)
    # a level that was reduced in fact has ended the build
    known = [v for v in best.order.verdicts if v.code != "level_reduced"]
    return _compiled(site, job, best, (*known, *_compared(done, failed)))


def _quantized(
    site: Site, job: Job, order: Order, photos: Path, seen: bytes
) -> Quantized | ToolError:
    """Quantize at one level, or take what an earlier build has left of the same.

    `seen` digests the photos. That the compiler fails or does less than it was asked to is
    returned: another level may work.
    """
    key = order.key(job.model.bytes, seen, site.environment.version.encode())
    if (kept := _kept(job, order, key)) is not None:
        return kept
    try:
        with site.worker(order.options) as worker:
            loaded = _translated(worker, site, job, order)
            parsed = _har(worker, "parsed.har")
            boxes = order.nms_file(loaded.layers)
            _instruct(worker, order, loaded.layers, boxes)
            shape = list(np.load(photos / "0.npy", allow_pickle=False).shape)
            _call(
                worker,
                "optimize",
                job,
                folder=str(photos),
                images=order.effort.calibset,
                shape=shape,
            )
            _guard(order, loaded.layers, worker.log)
            har = _har(worker, "quantized.har")
            about = About(
                key=key,
                level=order.level,
                agreement=_agreement(job, order, loaded),
                photos=order.effort.calibset,
            )
            return Quantized(order, about, parsed, har, boxes, worker.log)
    except ToolError as error:
        return _explained(error)


def _kept(job: Job, order: Order, key: str) -> Quantized | None:
    """What an earlier build quantized of the same, before it failed."""
    names = ("har_about", "har_parsed", "har_quantized", "log")
    if not all(n in job.kept for n in names):
        return None
    try:
        about = msgspec.json.decode(job.kept["har_about"], type=About)
    except msgspec.MsgspecError:
        return None
    if about.key != key:
        return None
    parsed, har = job.kept["har_parsed"], job.kept["har_quantized"]
    boxes, log = (job.kept.get(n, b"").decode(errors="replace") for n in ("nms", "log"))
    return Quantized(order, about, parsed, har, boxes, log)


def _digest(photos: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(photos.glob("*.npy"), key=lambda p: int(p.stem)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def _translated(worker: Worker, site: Site, job: Job, order: Order) -> Loaded:
    """Have the network read, up to the end nodes; where the compiler names others, up to those.

    Only if they are the same nodes in another order: elsewhere onchip would not know the head.
    """
    (worker.folder / MODEL_FILE).write_bytes(job.model.bytes)
    name = job.input.name
    shape = [1, 3, job.input.height, job.input.width]

    def read(ends: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = _call(
            worker,
            "translate",
            job,
            model=MODEL_FILE,
            name=network_name(job.model.name),
            arch=site.chip,
            start=[name],
            end=list(ends),
            shapes={name: shape},
        )
        return found

    found = read(order.ends)
    if wanted := found.get("recommended"):
        if set(wanted) == set(order.ends):
            found = read(wanted)
        if "hn" not in found:
            raise UnsupportedError(
                f"{site.tool} cannot translate the network up to its head; it would end at "
                f"{', '.join(wanted)}",
                "an operation before the head is one that Hailo has not: onchip plan names it",
            )
    loaded = Loaded.take(worker, found["hn"])
    if missing := [n for n in order.ends if n not in loaded.layers]:
        raise ToolError(f"{site.tool} has no layer for {missing[0]}, where the network ends")
    return loaded


def network_name(name: str) -> str:
    """Return what a network is called inside: the compiler takes letters, digits and _ only.

    >>> network_name("best (1)"), network_name("11-nano"), network_name("")
    ('best_1', 'network_11_nano', 'network')
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return plain if plain[:1].isalpha() else f"network_{plain}".strip("_")


def _instruct(worker: Worker, order: Order, layers: Mapping[str, str], boxes: str) -> None:
    """Load the script, and write the file that it names, with the compiler's own layer names."""
    if boxes:
        (worker.folder / NMS_FILE).write_text(boxes)
    worker.call("script", text=order.script.text(layers))


def _har(worker: Worker, name: str) -> bytes:
    worker.call("save", har=name)
    return (worker.folder / name).read_bytes()


def _guard(order: Order, layers: Mapping[str, str], log: str) -> tuple[Verdict, ...]:
    """Say what the compiler did less than it was asked to; past the gate that ends the build.

    Raises:
        ToolError: it did too little.
    """
    found = guard.verdicts(order.asked(layers), guard.read(log))
    if wrong := [v for v in found if v.level == "error"]:
        error = ToolError(f"Hailo's compiler did less than it was asked to: {wrong[0].message}")
        error.log = log
        raise error
    return found


def _agreement(job: Job, order: Order, loaded: Loaded) -> float:
    """How alike the quantized network sees, in the compiler's emulator, on a few photos."""
    from onchip.graph.run import Runner
    from onchip.quantize.agreement import CLEAR, agreement

    run, spec = Runner(job.model.bytes), calibration.taken(job.input, rgb=order.options.rgb)
    wanted: list[Mapping[str, Array]] = []
    found: list[Mapping[str, Array]] = []
    for done, photo in enumerate(calibration.photos(job, spec, PROBES)):
        job.progress("compare", done, PROBES)
        wanted.append(run(_floats(photo, spec, job.input)))
        found.append(loaded.infer(QUANTIZED, photo, order.head, CLEAR))
    job.progress("compare", PROBES, PROBES)
    size = (job.input.width, job.input.height)
    return agreement(job.head, size, wanted, found, order.head)


def _floats(
    photo: npt.NDArray[np.uint8], spec: InputSpec, wanted: InputSpec
) -> npt.NDArray[np.float32]:
    """What the float network expects, of what the program takes."""
    pixels = photo if spec.color == wanted.color else photo[..., ::-1]
    values = (pixels - np.asarray(wanted.mean)) / np.asarray(wanted.std)
    return np.ascontiguousarray(np.moveaxis(values, -1, 1), np.float32)


def _compared(done: Sequence[Quantized], failed: Sequence[ToolError]) -> tuple[Verdict, ...]:
    """Say how the levels compare."""
    each = ", ".join(f"level {x.about.level} {x.about.agreement:.1%}" for x in done)
    best = max(done, key=lambda x: x.about.agreement)
    text = f"agreement with the float network on a few photos, in Hailo's emulator: {each}"
    text += f"; level {best.about.level} is used" if len(done) > 1 else ""
    low = best.about.agreement < LOW
    text += "; it sees little of what the network does: run onchip verify" if low else ""
    quantizer = Verdict(code="quantizer", message=text, level="warning" if low else "info")
    return (
        quantizer,
        *(
            Verdict(code="level_failed", message=f"a level was left out: {e}", level="warning")
            for e in failed
        ),
    )


def _compiled(site: Site, job: Job, best: Quantized, verdicts: Sequence[Verdict]) -> Compiled:
    """Compile what was quantized; where that fails, what was quantized is kept."""
    order, log = best.order, best.log
    try:
        with site.worker(order.options) as worker:
            loaded = load(worker, site.chip, best.har, best.boxes)
            _instruct(worker, order, loaded.layers, best.boxes)
            program = _call(worker, "compile", job)
            har = _har(worker, "compiled.har")
            log = f"{best.log}\n{worker.log}"
        admitted = _guard(order, loaded.layers, log)
        judged = _check(program, site, job, order)
    except ToolError as error:
        error.log = error.log if best.log in error.log else f"{best.log}\n{error.log}"
        error.parts = best.parts
        raise _explained(error) from error
    script = order.script.text(loaded.layers)
    return Compiled(
        payload=program,
        suffix="hef",
        input=calibration.taken(job.input, rgb=order.options.rgb),
        tools={PACKAGE: site.environment.version},
        verdicts=(*verdicts, *admitted, *judged, *_foretold(job, loaded)),
        notes=_notes(best, guard.read(log)),
        extras={
            **best.parts,
            **calibration.brought(job),
            "har_compiled": ("compiled.har", har),
            "log": ("compile.log", log.encode()),
            "script": ("model.alls", script.encode()),
        },
        head=order.head,
    )


def _foretold(job: Job, loaded: Loaded) -> tuple[Verdict, ...]:
    """Say where the compiler numbers layers otherwise than onchip plan foretells."""
    found = differences(predicted(job.model), loaded.layers)
    if not found:
        return ()
    text = f"{len(found)} layers have other names than onchip plan foretells: {found[0]}; this "
    text += "build has the compiler's own"
    return (Verdict(code="names_differ", message=text),)


def _notes(best: Quantized, done: guard.Done) -> dict[str, str]:
    notes = {
        "level": str(best.about.level),
        "photos": str(best.about.photos),
        "boxes": {"cpu": "HailoRT", "nn_core": "the chip", None: "onchip"}[best.order.boxes],
    }
    if done.contexts:
        notes["contexts"] = str(done.contexts)
    if done.snr:
        notes["output SNR"] = ", ".join(f"{n} {v:.3g} dB" for n, v in done.snr.items())
    return notes


def _check(program: bytes, site: Site, job: Job, order: Order) -> tuple[Verdict, ...]:
    """Hold what the compiler wrote against what it was asked for, by the file itself.

    Raises:
        ToolError: it is no whole file, for another chip, or cannot see.
    """
    try:
        made = hef_file.parse(program, "program.hef")
    except InputError as error:
        raise ToolError(f"{site.tool} wrote a file that is no whole HEF: {error}") from error
    wanted = Expected(
        chip=site.chip,
        classes=job.head.classes,
        size=(job.input.width, job.input.height),
        wide=job.plan.wide,
        end_nodes=order.ends,
    )
    found = hef_verdicts(made, "", wanted)
    if wrong := [v for v in found if v.level == "error"]:
        raise ToolError(f"{site.tool} wrote a file that will not do: {wrong[0].message}")
    return tuple(v for v in found if v.level == "warning" and v.code not in SAID)


def _call(worker: Worker, verb: str, job: Job, **options: Any) -> Any:
    return worker.call(
        verb,
        progress=lambda what, done, total: job.progress(f"hailo {what}", done, total),
        limit=LONG,
        **options,
    )


def _explained(error: ToolError) -> ToolError:
    """Add the cause and cure of a line that is known."""
    found = explain(TOOL, f"{error}\n{error.log}")
    wrong = [v for v in found if v.level == "error"]
    if not wrong:
        return error
    better = ToolError(str(error), wrong[0].message)
    better.log, better.parts = error.log, error.parts
    return better
