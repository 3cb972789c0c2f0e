"""The steps that are done for each chip: build, and prove."""

from pathlib import Path

import msgspec

import onchip
from onchip.artifact import Artifact, load, save
from onchip.build import Options, build
from onchip.errors import InputError, OnchipError
from onchip.graph import read
from onchip.measure.proof import Gate, Proof, dump, restore
from onchip.run.ledger import Said
from onchip.run.outcome import Built
from onchip.run.photos import images
from onchip.run.way import CALIBRATION, Way, line
from onchip.targets import target as targets
from onchip.targets.target import Target
from onchip.verify import verify
from onchip.writing import write_whole


def target(way: Way, chip: str, model: Path) -> Built:
    """Build for one chip and prove it; what fails there does not keep the others from it."""
    path, artifact = way.place(f"{way.project.name}.{chip}.onchip"), None
    try:
        _build(way, chip, model, path)
        artifact = load(path)
        return Built(chip, path, artifact, _verify(way, chip, path, artifact))
    except OnchipError as error:
        return Built(chip, path, artifact, error=error)


def _build(way: Way, chip: str, model: Path, path: Path) -> None:
    wanted, photos = way.project.build, way.photos
    given = {name: str(value) for name, value in wanted.options.get(chip, {}).items()}
    options = Options(target=given, budget=wanted.auto_precision)
    target = targets.get(chip)
    words: list[object] = ["build", model, "-t", chip, "-o", path]
    words += ["-c", way.place(CALIBRATION), "--images", 0]
    if wanted.auto_precision is not None:
        words += ["--auto-precision", wanted.auto_precision]
    for name, value in given.items():
        words += ["-O", f"{name}={value}"]
    made_of: list[object] = [onchip.__version__, read.load(model).digest, target.portable(given)]
    made_of += [*photos, way.whole, wanted.auto_precision]  # a build looks at labels too

    def keep(unfinished: Artifact) -> None:
        save(unfinished, path.with_suffix(".failed.onchip"))

    def work() -> Said:
        older = _older(path)
        made = build(
            model, chip, photos, options=options, older=older, progress=way.progress, keep=keep
        )
        save(made, path)
        warned = [v for v in made.manifest.verdicts if v.level == "warning"]
        return {
            "head": made.manifest.head.family,
            "photos": len(photos),
            "warnings": len(warned) or None,
        }

    way.book.step(f"build {chip}", [*made_of, *_there(target)], line(*words), [path], work)


def _there(target: Target) -> list[object]:
    """What there is of a chip's tools on this machine."""
    return [target.version(), *(p.found for p in target.parts())]


def _older(path: Path) -> Artifact | None:
    try:
        return load(path) if path.exists() else None
    except InputError:  # of another version, or damaged: it is made again
        return None


def _verify(way: Way, chip: str, path: Path, artifact: Artifact) -> Proof:
    wanted, place = way.project.verify, way.place(f"proof.{chip}.msgpack")
    gate = Gate(wanted.max_drop, wanted.min_match)
    split = wanted.split or ("test" if "test" in way.found.splits else "val")
    data, labelled = images(way, split, wanted.images)
    words: list[object] = ["verify", path]
    words += ["--data", way.found.notes, "--split", split] if labelled else ["-c", way.found.source]
    words += ["--images", wanted.images] if wanted.images else []
    words += ["--max-drop", wanted.max_drop, "--min-match", wanted.min_match]
    made_of: list[object] = [onchip.__version__, path, way.whole, way.where, way.found.splits]
    made_of += [msgspec.to_builtins(wanted), *_there(targets.get(chip))]

    def work() -> Said:
        proof = verify(artifact, data, labelled=labelled, gate=gate, progress=way.progress)
        write_whole(place, dump(proof))
        last = proof.rows[-1]
        return {
            "images": proof.images,
            "lost": last.drop,
            "matched": last.parity.matched,
            "passed": "yes" if proof.passed else "no",
        }

    way.book.step(f"verify {chip}", made_of, line(*words), [place], work)
    return restore(place.read_bytes())
