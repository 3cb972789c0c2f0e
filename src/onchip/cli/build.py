"""plan, build, parse, optimize, compile."""

import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, get_args

import click

from onchip.artifact import Artifact, check_writable, load, save
from onchip.build import Options, build, compile_, foresee, left, optimize, parse
from onchip.cli.options import as_json, command, names, size
from onchip.cli.output import bars, print_json, print_text, say, somebody
from onchip.errors import InputError, OnchipError, ToolError
from onchip.graph.pixels import Pixels, triple
from onchip.progress import Progress
from onchip.quantize.recipe import RECIPES, recipe
from onchip.report import data, text
from onchip.sampling import some
from onchip.spec import Color, Layout, Letterboxing
from onchip.targets import target as targets
from onchip.targets.target import UNFINISHED
from onchip.toolchains.worker import end_all
from onchip.vision.preprocess import find_images

IMAGES = 128
BUILD_MB = 2500  # that one build takes at most, an SDK beside it included

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _options(*found: Decorator) -> Decorator:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(found):
            function = option(function)
        return function

    return wrap


_target = click.option(
    "-t", "--target", default="cpu", show_default=True, help="See onchip targets."
)
_output = click.option("-o", "--output", type=Path, help="The .onchip file to write.")
_model_options = _options(
    click.option("--imgsz", help="Input size, for a model without one: 640 or 640x480."),
    click.option("--end-nodes", help="Cut at these nodes: a,b,c. Default: found and proven."),
    click.option("--color", type=click.Choice(get_args(Color)), help="Channel order."),
    click.option("--mean", help="Of the pixel values 0-255: one number or three."),
    click.option("--std", help="Of the pixel values 0-255: one number or three."),
    click.option("--letterbox", type=click.Choice(get_args(Letterboxing)), help="How photos fit."),
    click.option("--pad", type=click.IntRange(0, 255), help="Grey value around the photo."),
    click.option("--labels", help="Class names: a,b,c or a file with one per line."),
    click.option(
        "--layout",
        type=click.Choice(get_args(Layout)),
        default="onchip",
        show_default=True,
        help="Outputs; zoo: as rknn_model_zoo's C++ demos read them; frigate: as Frigate does.",
    ),
    click.option(
        "--custom-op",
        "custom_ops",
        multiple=True,
        metavar="NAME=OP",
        help="An operation of your own, and the ONNX operation that computes the same.",
    ),
)
_photo_options = _options(
    click.option("-c", "--calibrate", "photos", help="Photos like those the camera will see."),
    click.option("--images", type=click.IntRange(0), default=IMAGES, show_default=True,
                 help="How many of them to use; 0 is all."),
)  # fmt: skip
_target_options = _options(
    click.option("-O", "--option", "target_options", multiple=True, metavar="NAME=VALUE",
                 help="An option of the target's own; onchip targets NAME lists them."),
)  # fmt: skip
_precision_options = _options(
    click.option("--keep-float", help="Layers (nodes, or patterns) to keep in float: a,b*."),
    click.option("--int16", help="Layers whose output gets 16 bits, where the chip can: a,b*."),
    click.option("--auto-precision", "budget", type=click.FloatRange(0), metavar="BUDGET",
                 help="Raise the fewest layers that keep the loss within so many points: of mAP on "
                 "photos with labels, else of matched detections."),
    click.option("--max-float", type=click.IntRange(0), default=3, show_default=True,
                 help="The most layers that onchip itself may keep in float."),
    click.option("--recipe", default="balanced", show_default=True, metavar="RECIPE",
                 help=f"How the plan is made: {', '.join(RECIPES)}; or algorithms by name, or a "
                 "recipe without one: balanced,-weights."),
)  # fmt: skip


@command("onchip build best.onnx -t cpu -c photos/ -o best.onchip")
@click.argument("model", type=Path)
@_target
@_photo_options
@_output
@_model_options
@_precision_options
@_target_options
@click.option(
    "--memory",
    type=click.IntRange(1),
    metavar="MB",
    help="The most that several builds may take together; default: what is free.",
)
@as_json
def build_verb(
    model: Path, target: str, output: Path | None, memory: int | None, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Make a compiled .onchip file of an ONNX MODEL: parse, optimize and compile in one.

    Several targets (-t rk3588,rk3566,cpu) are built side by side, as many at once as the memory
    allows, each into a file of its own: best.rk3588.onchip; -o is then a folder. Stages whose
    inputs did not change since the last build into the same file are skipped.
    """
    chips = tuple(dict.fromkeys(names(target)))
    if not chips:
        raise InputError("no target", "name one: -t rk3588; onchip targets lists them")
    paths = [_place(model, chip, output, alone=len(chips) == 1) for chip in chips]
    older = [_older(p) for p in paths]
    photos, options = _photos(given), _read(given)

    def one(chip: str, path: Path, older: Artifact | None) -> Artifact:
        place = _unfinished_place(path, older)

        def keep(unfinished: Artifact) -> None:
            if not ended.is_set():
                save(unfinished, place)

        try:
            return build(
                model,
                chip,
                photos,
                options=options,
                older=older,
                progress=progress if len(chips) == 1 else _labelled(progress, chip),
                keep=keep,
            )
        except ToolError as error:
            told = [error.hint] if error.hint else []
            error.hint = "; ".join([*told, f"its log: onchip inspect {place} --log"])
            raise

    ended = Event()
    with bars() as progress:
        if len(chips) == 1:
            made = one(chips[0], paths[0], older[0])
        else:
            with ThreadPoolExecutor(_at_once(len(chips), memory)) as pool:
                builds = [pool.submit(one, *each) for each in zip(chips, paths, older, strict=True)]
                _wait(builds, ended)
    if len(chips) == 1:
        _finish(made, paths[0], as_json)
    else:
        _finish_all(builds, paths, as_json)


@command("onchip parse best.onnx -t cpu -o best.onchip")
@click.argument("model", type=Path)
@_target
@_photo_options
@_output
@_model_options
@as_json
def parse_verb(model: Path, target: str, output: Path | None, as_json: bool, **given: Any) -> None:
    """Read an ONNX MODEL, find its head, cut it there and prove the cut."""
    path = output or Path(f"{model.stem}.onchip")
    older = _older(path)
    photos = _photos(given) if given["photos"] else []
    with bars() as progress:
        made = parse(model, target, photos, options=_read(given), older=older, progress=progress)
    _finish(made, path, as_json)


@command("onchip optimize best.onchip -c photos/")
@click.argument("file", type=Path)
@_photo_options
@_output
@_precision_options
@as_json
def optimize_verb(file: Path, output: Path | None, as_json: bool, **given: Any) -> None:
    """Decide every scale and precision of a parsed FILE by watching it on photos."""
    artifact = load(file)
    path = output or file
    check_writable(path)
    with bars() as progress:
        made = optimize(
            artifact, _photos(given), options=_read(given), older=artifact, progress=progress
        )
    _finish(made, path, as_json)


@command("onchip compile best.onchip")
@click.argument("file", type=Path)
@_photo_options
@_output
@_target_options
@click.option("--on", "host", help="Do it on another machine, which has the SDK: user@host.")
@click.option("--folder", default="", help="Where all of it lies there.")
@click.option("--ssh-option", "ssh", multiple=True, help="A setting of ssh: Port=2222")
@as_json
def compile_verb(
    file: Path,
    output: Path | None,
    host: str | None,
    folder: str,
    ssh: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Make the file that the chip runs from an optimized FILE, here or on another machine.

    Photos are for chips whose own tools can quantize too, so that the better way can be kept.
    """
    artifact = load(file)
    path = output or file
    check_writable(path)
    photos = _photos(given) if given["photos"] else []
    if host is not None:
        made, failed = _elsewhere(Place(host, folder, ssh), file, photos, given)
        if failed is not None:
            if artifact.manifest.program_input is None:  # a program that works is worth more
                save(made, path)
            raise failed
        _finish(made, path, as_json)
        return
    try:
        with bars() as progress:
            made = compile_(
                artifact, photos, options=_read(given), older=artifact, progress=progress
            )
    except ToolError as error:
        if artifact.manifest.program_input is None:  # a program that works is worth more
            save(left(artifact, error), path)
        raise
    if made.manifest.program_input is None:
        save(made, path)
        missing = next(v for v in made.manifest.verdicts if v.code == UNFINISHED)
        wanted = [p.hint for p in targets.get(made.manifest.target).parts() if not p.found]
        raise ToolError(missing.message.partition(";")[0], *wanted[:1])
    _finish(made, path, as_json)


class Place(NamedTuple):
    """Another machine, the folder there ("" is the usual one), and settings of ssh."""

    host: str
    folder: str
    ssh: tuple[str, ...]


def _elsewhere(
    place: Place, file: Path, photos: list[Path], given: dict[str, Any]
) -> tuple[Artifact, OnchipError | None]:
    from onchip.device.host import FOLDER, compile_on
    from onchip.device.ssh import Board

    options = _read(given).target
    with Board(place.host, place.ssh, prompts=somebody()) as there, bars() as progress:
        return compile_on(
            there,
            file,
            photos,
            options=options,
            folder=place.folder or FOLDER,
            say=say,
            progress=progress,
        )


@command("onchip plan best.onnx -t hailo8l --out hailo/")
@click.argument("model", type=Path)
@_target
@_photo_options
@click.option("--out", type=Path, help="A folder for the files that the vendor's compiler takes.")
@_model_options
@_precision_options
@_target_options
@as_json
def plan_verb(model: Path, target: str, out: Path | None, as_json: bool, **given: Any) -> None:
    """Say what a build of MODEL would do and what will go wrong, with no vendor software.

    With photos (-c) also the precision of every layer is decided.
    """
    photos = _photos(given) if given["photos"] else []
    with bars() as progress:
        made, seen = foresee(model, target, photos, options=_read(given), progress=progress)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in seen.files.items():
            (out / name).write_text(content)
    if as_json:
        print_json(data.plan(made, seen))
    else:
        print_text(text.plan(made, seen, out))


def _place(model: Path, chip: str, output: Path | None, *, alone: bool) -> Path:
    if alone:
        return output or Path(f"{model.stem}.onchip")
    if output is not None and not output.is_dir():
        raise InputError(f"{output} is not a folder", "several targets need one: -o FOLDER")
    return (output or Path()) / f"{model.stem}.{chip}.onchip"


def _unfinished_place(path: Path, older: Artifact | None) -> Path:
    """Where a build that fails leaves what it did: never over a program that works."""
    works = older is not None and older.manifest.program_input is not None
    return path.with_suffix(".failed.onchip") if works else path


def _at_once(builds: int, memory: int | None) -> int:
    """How many builds fit into the memory that may be used."""
    free = memory if memory is not None else _free_mb()
    return max(1, min(builds, free // BUILD_MB))


def _free_mb() -> int:
    """The memory that this machine can give; where it does not say, enough for one build."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) >> 10
    except (OSError, StopIteration, ValueError):
        return BUILD_MB


def _labelled(progress: Progress, chip: str) -> Progress:
    return lambda what, done, total: progress(f"{chip} {what}", done, total)


def _older(path: Path) -> Artifact | None:
    """Return the artifact that stands where the new one will, if it is one.

    A file that onchip did not write is never overwritten.
    """
    check_writable(path)
    if not path.exists():
        return None
    try:
        return load(path)
    except InputError as error:
        if path.suffix == ".onchip":
            return None
        raise InputError(
            f"{path} exists and is not an .onchip file", "choose another place with -o"
        ) from error


def _photos(given: dict[str, Any]) -> list[Path]:
    if not given["photos"]:
        raise InputError("no calibration images", "name a folder of photos: -c photos/")
    return some(find_images(given["photos"]), given["images"])


def _read(given: dict[str, Any]) -> Options:
    mean, std = given.get("mean"), given.get("std")
    return Options(
        size=size(given.get("imgsz")),
        end_nodes=names(given.get("end_nodes")),
        pixels=Pixels(
            color=given.get("color"),
            mean=triple(mean, "--mean") if mean else None,
            std=triple(std, "--std") if std else None,
            letterbox=given.get("letterbox"),
            pad=given.get("pad"),
        ),
        labels=names(given.get("labels")),
        keep_float=names(given.get("keep_float")),
        int16=names(given.get("int16")),
        budget=given.get("budget"),
        max_float=given.get("max_float", 3),
        recipe=recipe(given.get("recipe", "balanced")),
        layout=given.get("layout", "onchip"),
        custom_ops=_pairs(given.get("custom_ops", ()), "--custom-op"),
        target={
            name.replace("-", "_"): value
            for name, value in _pairs(given.get("target_options", ()), "-O").items()
        },
    )


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {pair!r} is not an option", f"write {option} NAME=VALUE")
        found[name] = value
    return found


def _finish(made: Artifact, path: Path, as_json: bool) -> None:
    save(made, path)
    if as_json:
        print_json(data.build(made, path, _peak_rss_mb()))
    else:
        print_text(text.artifact(made, str(path)))


def _wait(builds: Sequence["Future[Artifact]"], ended: Event) -> None:
    """Wait for all; when the user ends it, what runs in workers is ended at once."""
    try:
        wait(builds)
    except BaseException:
        ended.set()
        for build_ in builds:
            build_.cancel()
        while wait(builds, timeout=0.2).not_done:
            end_all()
        raise


def _finish_all(builds: Sequence["Future[Artifact]"], paths: Sequence[Path], as_json: bool) -> None:
    """Save and show what was built; the first that failed is told after the others."""
    done = [(b.result(), p) for b, p in zip(builds, paths, strict=True) if b.exception() is None]
    for made, path in done:
        save(made, path)
    failed = [error for b in builds if (error := b.exception()) is not None]
    if as_json and not failed:
        peak = _peak_rss_mb()
        print_json({"builds": [data.build(m, p, peak) for m, p in done]})
    elif not as_json and done:
        print_text("\n\n".join(text.artifact(m, str(p)) for m, p in done))
    if failed:
        raise failed[0]


def _peak_rss_mb() -> float:
    """The most memory that this process has held."""
    with suppress(OSError):  # what the system counts for others goes on from whoever started this
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(x.split()[1] for x in lines if x.startswith("VmHWM:"))) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024
