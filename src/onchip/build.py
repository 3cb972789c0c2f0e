"""The whole compiler on one page: parse, optimize, compile.

Each stage is a function from an artifact to a fuller one, and records the digest of all that went
into it. A stage whose digest is that of the record in the older artifact is taken from there.
"""

import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

import onchip
from onchip import stages
from onchip.artifact import FORMAT, Artifact, Manifest
from onchip.dataset.samples import truth_beside
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.graph import read
from onchip.graph.clean import clean
from onchip.graph.cost import cost
from onchip.graph.layout import laid_out, understood
from onchip.graph.layout import verdicts as layout_verdicts
from onchip.graph.pixels import ULTRALYTICS, Pixels, convention, declared, input_spec
from onchip.graph.prove import Cut, cut
from onchip.graph.read import Model
from onchip.graph.run import Runner
from onchip.graph.split import split_ends, unstack
from onchip.measure.budget import Loss
from onchip.measure.calibration import Calibration
from onchip.measure.pixels import Guess, Photo, guess
from onchip.progress import Progress, silent
from onchip.quantize import sound
from onchip.quantize.budget import choose_within
from onchip.quantize.emit import emit
from onchip.quantize.names import named
from onchip.quantize.optimize import Work
from onchip.quantize.optimize import optimize as quantize
from onchip.quantize.plan import QuantPlan
from onchip.quantize.precision import Precision, Search, choose_precision
from onchip.quantize.recipe import PLAIN, RECIPES, Recipe
from onchip.quantize.regions import divide, layers
from onchip.sampling import some
from onchip.spec import HeadSpec, InputSpec, Layout, Verdict
from onchip.targets import target as targets
from onchip.targets.target import Foresight, Job, Prepared, Target, Task
from onchip.vision.preprocess import prepare, read_image
from onchip.zips import DAMAGED

PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # how files of old PyTorch begin
PROOF_IMAGES = 2
GUESS_IMAGES = 8
PROBES = 3
BUDGET_IMAGES = 96
USUAL = 640  # pixels on a side
LARGE = 2  # times the area of that


@dataclass(frozen=True)
class Options:
    """What the user may decide; the defaults leave it to the model and to measurement."""

    size: tuple[int, int] | None = None
    end_nodes: tuple[str, ...] = ()
    pixels: Pixels = field(default_factory=Pixels)
    labels: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()
    max_float: int = 3
    recipe: Recipe = RECIPES["balanced"]
    budget: float | None = None  # the most points that may be lost, by raising layers
    layout: Layout = "onchip"
    custom_ops: dict[str, str] = field(default_factory=dict)  # to the ONNX operation they compute
    target: dict[str, str] = field(default_factory=dict)  # the target's own, by name


def build(
    source: Path,
    target: str,
    images: Sequence[Path],
    *,
    options: Options | None = None,
    older: Artifact | None = None,
    progress: Progress = silent,
    keep: Callable[[Artifact], None] = lambda made: None,
) -> Artifact:
    """Run all three stages; those that `older` already holds are taken from it.

    Where the last one fails, `keep` is given what is done, with the compiler's log.
    """
    options = options or Options()
    chip = targets.get(target)
    settings = chip.settings(options.target)
    made = parse(source, target, images, options=options, older=older, progress=progress)
    key = _optimize_key(made, chip, images, options)
    task = _task(made, images, settings, _compile_key(key, chip, settings, images), progress)
    begun = stages.finished(older, "optimize", key) is not None  # then there is nothing to wait for
    try:
        with nullcontext() if begun else chip.ahead(task) as ahead:
            made = optimize(made, images, options=options, older=older, progress=progress)
            return compile_(
                made, images, options=options, older=older, progress=progress, ahead=ahead
            )
    except ToolError as error:
        keep(left(made, error))
        raise


def left(begun: Artifact, error: ToolError) -> Artifact:
    """Return what is worth keeping of a build that failed: the log, and what else was done."""
    log = {"log": ("compile.log", error.log.encode())} if error.log else {}
    return begun.with_payloads({**log, **error.parts})


def parse(
    source: Path,
    target: str,
    images: Sequence[Path] = (),
    *,
    options: Options | None = None,
    older: Artifact | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Read a model, clean it, find its head, cut it there and prove the cut.

    Args:
        source: an ONNX file.
        target: the name of the target that it is for.
        images: photos on which to prove the cut, and to find out what the model does not say.
        options: what the user decided.
        older: an artifact of an earlier run.
        progress: is told how far it is.

    Raises:
        InputError: the file or an option is wrong.
        UnsupportedError: no head that onchip knows.
    """
    options = options or Options()
    chip = targets.get(target)
    _refuse_torch(source)
    original = understood(read.load(source), options.custom_ops)
    asked = (options.size, options.end_nodes, options.pixels, options.labels, options.layout)
    few = stages.digests(some(images, GUESS_IMAGES))
    key = stages.key("parse", original.digest, asked, options.custom_ops, target, few)
    if (done := stages.finished(older, "parse", key)) is not None:
        return done
    started = time.perf_counter()
    progress("parse", 0, 3)
    whole = read.prepared(original, options.size)
    model = clean(whole, check=False).model  # the cut is proven against the whole
    sound.check_weights(model)
    progress("parse", 1, 3)
    said = declared(model)
    known = options.pixels.over(said)
    found = cut(model, _tensors(model, known, images), options.end_nodes, whole)
    progress("parse", 2, 3)
    spec, verdicts = _input(found, known, images, progress)
    found = split_ends(found)
    if chip.takes_plan and options.layout == "onchip":  # others want such an end in one piece
        found = unstack(found)
    found = laid_out(found, options.layout)
    if options.layout == "frigate":
        targets.frigate_detectors(chip)
        chip.check_frigate(found.model, found.head, spec)
    verdicts = (*_verdicts(found, options, said, spec), *verdicts)
    head = _labelled(found.head, options.labels)
    progress("parse", 3, 3)
    manifest = Manifest(
        format=FORMAT,
        onchip=onchip.__version__,
        target=target,
        layout=options.layout,
        source=source.name,
        source_sha256=original.digest,
        input=spec,
        head=head,
        cost=cost(model),
        stages=(stages.record("parse", key, started, cut=found.proof.describe()),),
        verdicts=verdicts,
    )
    files = {"source": ("source.onnx", original.bytes), "cut": ("cut.onnx", found.model.bytes)}
    return Artifact(manifest, {}).with_payloads(files)


def optimize(
    artifact: Artifact,
    images: Sequence[Path],
    *,
    options: Options | None = None,
    older: Artifact | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Watch the network on calibration images and decide every scale and precision.

    Raises:
        InputError: there are no images, or none that can be read.
    """
    options = options or Options()
    if not images:
        raise InputError("no calibration images", "name a folder of photos: -c photos/")
    target = targets.get(artifact.manifest.target)
    most = _most_raised(target, options)
    key = _optimize_key(artifact, target, images, options)
    if (done := stages.finished(older, "optimize", key)) is not None:
        return done
    started = time.perf_counter()
    spec, head, model = artifact.manifest.input, artifact.manifest.head, cut_model(artifact)
    photos = Calibration(images, stages.digests(images), spec)
    floats = _raised(options.keep_float, "float", target, model)
    wide = _raised(options.int16, "int16", target, model)
    work = Work(
        model=model,
        head=head,
        spec=spec,
        quant=target.quant,
        images=photos.makers,
        used=photos.used,
        probes=photos.probes(model, head, GUESS_IMAGES),
        floats=floats,
        wide=wide,
        refused=photos.refuse,
    )

    def raised(search: Search) -> Precision:
        if options.budget is None:
            return choose_precision(search, most)
        return _within(search, options.budget, images, progress)

    chosen = quantize(work, _recipe(target, options), raised, progress)
    record = stages.record(
        "optimize",
        key,
        started,
        images=str(photos.used()),
        recipe=_recipe(target, options).describe(),
    )
    begun = stages.only(artifact, "parse")
    payloads = {"plan": ("plan.json", msgspec.json.encode(chosen.plan))}
    if photos.look is not None:
        payloads["photos"] = ("photos.json", msgspec.json.encode(photos.look))
    if chosen.model is not model:
        payloads["planned"] = ("planned.onnx", chosen.model.bytes)
    return begun.with_payloads(
        payloads,
        stages=(*begun.manifest.stages, record),
        **stages.said(begun, "optimize", (*chosen.verdicts, *photos.verdicts())),
    )


def compile_(
    artifact: Artifact,
    images: Sequence[Path] = (),
    *,
    options: Options | None = None,
    older: Artifact | None = None,
    progress: Progress = silent,
    ahead: object = None,
) -> Artifact:
    """Write the plan as a graph and have the target compile it.

    Args:
        artifact: parsed and optimized.
        images: photos, for targets that can also quantize by themselves.
        options: what the user decided.
        older: an artifact of an earlier run.
        progress: is told how far it is.
        ahead: what the target began while the plan was made.

    Raises:
        InputError: there is no plan yet, or an option is wrong.
        ToolError: the compiler failed.
    """
    target = targets.get(artifact.manifest.target)
    given = {**artifact.manifest.options, **target.portable((options or Options()).target)}
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    before = artifact.manifest.stages[:2]
    settings = target.settings(given)
    key = _compile_key(before[1].key, target, settings, images)
    if (done := stages.finished(older, "compile", key)) is not None:
        return done
    started = time.perf_counter()
    progress("compile", 0, 1)
    task = _task(artifact, images, settings, key, progress)
    fields = vars(task) | {"kept": (older or artifact).payloads}
    made = target.compile(Job(**fields, plan=plan, qdq=quantized(artifact).bytes, ahead=ahead))
    progress("compile", 1, 1)
    begun = stages.only(artifact, "optimize")
    if isinstance(made, Prepared):
        if (whole := stages.still_good(older, begun, given)) is not None:
            return whole
        said = stages.said(begun, "compile", (made.missing, *made.verdicts))
        return begun.with_payloads(made.extras, options=given, **said)
    return begun.with_payloads(
        {"program": (f"program.{made.suffix}", made.payload), **made.extras},
        program_input=made.input,
        program_head=made.head,
        options=given,
        stages=(*before, stages.record("compile", key, started, **made.notes)),
        tools=made.tools,
        **stages.said(begun, "compile", made.verdicts),
    )


def foresee(
    source: Path,
    target: str,
    images: Sequence[Path] = (),
    *,
    options: Options | None = None,
    progress: Progress = silent,
) -> tuple[Artifact, Foresight]:
    """Say what a build would do: parse, with photos also optimize, and ask the target.

    Raises:
        InputError: the file or an option is wrong.
        UnsupportedError: no head that onchip knows.
    """
    options = options or Options()
    chip = targets.get(target)
    settings = chip.settings(options.target)
    made, plan = parse(source, target, images, options=options, progress=progress), None
    if images:
        made = optimize(made, images, options=options, progress=progress)
        plan = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
    return made, chip.foresee(_task(made, images, settings, "", progress), plan)


def _task(
    artifact: Artifact, images: Sequence[Path], settings: Struct, key: str, progress: Progress
) -> Task:
    return Task(
        model=cut_model(artifact),
        network=planned_model(artifact),
        head=artifact.manifest.head,
        input=artifact.manifest.input,
        options=settings,
        layout=artifact.manifest.layout,
        photos=lambda wanted, count: _inputs(images, wanted, count),
        progress=progress,
        key=key,
    )


def _refuse_torch(source: Path) -> None:
    """Name a PyTorch file for what it is. It is a zip or a pickle, and neither is unpacked."""
    try:
        with source.open("rb") as file:
            start = file.read(len(PICKLE))
        if start != PICKLE and not zipfile.is_zipfile(source):
            return
        names = [] if start == PICKLE else zipfile.ZipFile(source).namelist()
    except (OSError, *DAMAGED):  # said when it is read as ONNX
        return
    parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in parts:
        raise InputError(
            f"{source} is TorchScript (torch.jit); onchip reads ONNX",
            "name the checkpoint that it was made of: onchip export best.pt, or torch.onnx.export",
        )
    if start == PICKLE or "data.pkl" in parts:
        raise InputError(
            f"{source} holds PyTorch weights (torch.save), and no network without its own code",
            f"export it to ONNX: onchip export {source} for Ultralytics' own; others where "
            "they were trained: torch.onnx.export",
        )


def cut_model(artifact: Artifact) -> Model:
    """Return the cut float graph of an artifact."""
    proto = read.parse(artifact.payload("cut"), "cut.onnx")
    return Model(proto, artifact.manifest.source_sha256, Path(artifact.manifest.source).stem)


def planned_model(artifact: Artifact) -> Model:
    """Return the float graph that an artifact's plan is of: the cut one, perhaps rewritten."""
    if "planned" not in artifact.payloads:
        return cut_model(artifact)
    proto = read.parse(artifact.payload("planned"), "planned.onnx")
    return cut_model(artifact).changed(proto)


def quantized(artifact: Artifact) -> Model:
    """Return the plan of an artifact as a QDQ graph."""
    model, head = planned_model(artifact), artifact.manifest.head
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    regions = divide(model, head, plan.quant, plan.floats)
    return model.changed(emit(model, regions, plan, pixel=artifact.manifest.input.pixel))


def _within(search: Search, budget: float, images: Sequence[Path], progress: Progress) -> Precision:
    if not search.plan.quant.raised:
        raise UnsupportedError(
            "this chip computes in integers only: no layer can be raised",
            "leave --auto-precision away",
        )
    photos = _photos(some(images, BUDGET_IMAGES), search.probes.head.classes)
    known = [p for p in photos if p.truth is not None]
    photos = known if 2 * len(known) >= len(photos) else photos
    loss = Loss(search.model, search.probes.head, search.spec, photos)
    return choose_within(
        search, loss, budget, loss.unit, lambda tried: progress("precision", tried, 0)
    )


def _inputs(
    images: Sequence[Path], spec: InputSpec, count: int
) -> Iterator[npt.NDArray[np.generic]]:
    for path in some(images, count):
        try:
            yield prepare(read_image(path), spec)[0]
        except InputError:  # counted, and said, when the plan was made
            continue


def _photos(images: Sequence[Path], classes: int) -> list[Photo]:
    photos = []
    for path in images:
        try:
            image = read_image(path)
            truth = truth_beside(path, classes)
            size = (image.shape[1], image.shape[0])
            photos.append(Photo(image, truth.truth(size) if truth else None))
        except InputError:  # counted, and said, when the calibration images are read
            continue
    return photos


def _tensors(model: Model, known: Pixels, images: Sequence[Path]) -> list[npt.NDArray[np.generic]]:
    """Inputs to prove the cut on. It is exact whatever the pixels, so any complete spec will do."""
    spec = input_spec(model, known.over(ULTRALYTICS))
    return [prepare(p.image, spec)[0] for p in _photos(some(images, PROOF_IMAGES), 0)]


def _input(
    found: Cut, known: Pixels, images: Sequence[Path], progress: Progress
) -> tuple[InputSpec, tuple[Verdict, ...]]:
    """Settle what the network expects of its pixels, and say how where that was not given."""

    def make(pixels: Pixels) -> InputSpec:
        return input_spec(found.model, pixels)

    if known.complete:
        return make(known), ()
    photos = _photos(some(images, GUESS_IMAGES), found.head.classes)
    if not photos:
        spec = make(known.over(convention(found.head)))
        text = (
            f"the model does not say how its pixels are prepared; assumed {spec.describe()}, as is "
            f"usual for {found.head.family}: give images (-c) to try, or --color, --mean, --std"
        )
        return spec, (Verdict(code="pixels_assumed", message=text, level="warning"),)
    chosen: Guess = guess(
        Runner(found.model.bytes),
        found.head,
        known,
        make,
        photos,
        lambda done: progress("pixels", done, 0),
    )
    return make(chosen.pixels), (chosen.verdict(),)


def _verdicts(found: Cut, options: Options, said: Pixels, spec: InputSpec) -> tuple[Verdict, ...]:
    return (
        *_anchor_verdicts(found),
        *_contradictions(said, spec),
        *_size_verdicts(spec),
        *layout_verdicts(found, options.layout),
    )


def _contradictions(said: Pixels, spec: InputSpec) -> tuple[Verdict, ...]:
    """Name what was given otherwise than the model itself says."""
    found = [
        f"{name} {getattr(spec, name)} was given, the model says {wanted}"
        for name in ("color", "mean", "std", "letterbox")
        if (wanted := getattr(said, name)) is not None and wanted != getattr(spec, name)
    ]
    text = f"{'; '.join(found)}: unless the model is wrong, it will see badly"
    return (Verdict(code="pixels_contradict", message=text, level="warning"),) if found else ()


def _size_verdicts(spec: InputSpec) -> tuple[Verdict, ...]:
    times = spec.width * spec.height / USUAL**2
    if times < LARGE:
        return ()
    text = (
        f"the input is {spec.width}x{spec.height}: each frame costs {times:.3g} times what it "
        f"would at {USUAL}x{USUAL}; export the model at that size (imgsz={USUAL}) if it sees enough"
    )
    return (Verdict(code="large_input", message=text, level="warning"),)


def _anchor_verdicts(found: Cut) -> tuple[Verdict, ...]:
    if found.head.coding != "anchor" or found.proof.kind != "raw":
        return ()
    text = (
        "the model gives raw tensors, so that its anchors are not in the graph; assumed YOLOv5's "
        "own: if it was trained with others, export it with its boxes decoded"
    )
    return (Verdict(code="anchors_assumed", message=text, level="warning"),)


def _labelled(head: HeadSpec, labels: tuple[str, ...]) -> HeadSpec:
    if labels and len(labels) != head.classes:
        raise InputError(
            f"{len(labels)} class names were given, but the model has {head.classes} classes",
            "name each class once, in the order of training",
        )
    return replace(head, labels=labels) if labels else head


def _raised(names: tuple[str, ...], kind: str, target: Target, model: Model) -> tuple[str, ...]:
    """Return the layers that the user wants raised, by name or pattern, if the chip can."""
    can = target.quant.raised
    if names and not any(p.startswith(kind) for p in can):
        raise UnsupportedError(
            f"{target.name} has no layers in {kind}" + ("" if can else ": it has integers only"),
            f"its layers can be raised to {' or '.join(can)}" if can else "leave that option out",
        )
    return named(names, layers(model))


def _most_raised(target: Target, options: Options) -> int:
    return options.max_float if target.quant.raised else 0


def _recipe(target: Target, options: Options) -> Recipe:
    """A chip whose compiler makes its own plan of the float network has no use for ours."""
    return options.recipe if target.takes_plan else PLAIN


def _optimize_key(
    parsed: Artifact, target: Target, images: Sequence[Path], options: Options
) -> str:
    raised = (options.keep_float, options.int16, _most_raised(target, options), options.budget)
    decided = (*raised, _recipe(target, options))
    before = parsed.manifest.stages[0].key
    return stages.key("optimize", before, target.quant, stages.digests(images), decided)


def _compile_key(before: str, target: Target, settings: Struct, images: Sequence[Path]) -> str:
    seen = stages.digests(images) if target.uses_photos else []
    return stages.key("compile", before, target.version(), settings, seen)
