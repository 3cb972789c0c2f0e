"""The whole way on one page: check, split, train, export, calibrate, build, verify, report."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from onchip.dataset import folders
from onchip.errors import InputError
from onchip.progress import Progress
from onchip.report.document import write
from onchip.run.builds import target
from onchip.run.ledger import Ledger, Step
from onchip.run.network import network
from onchip.run.outcome import Outcome
from onchip.run.page import page
from onchip.run.photos import calibration, checked, divided, measurable
from onchip.run.project import Project
from onchip.run.way import Way
from onchip.writing import alone

if TYPE_CHECKING:
    from onchip.train.runs import Epoch


def run(
    project: Project,
    *,
    trust: bool,
    tell: Callable[[Step], None],
    epoch: Callable[["Epoch", int], None],
    progress: Progress,
) -> Outcome:
    """Go the whole way of a project; steps whose inputs have not changed are skipped.

    Args:
        project: what to do.
        trust: the user's word that a .pt may be loaded.
        tell: is given each step when it is done.
        epoch: is given each epoch of the training, and how many there may be.
        progress: is told how far the present step is.

    Raises:
        InputError: the data set has errors, or something in the project is wrong.
        OnchipError: a step failed before there was anything to build.
    """
    folder = Path(project.out) / "onchip" / project.name
    if project.data.lower().endswith(".json"):
        raise InputError(
            f"{project.data} is a COCO document, and trainers take YOLO's layout",
            f"onchip dataset convert {project.data} photos/ --to yolo",
        )
    if project.model and not Path(project.model).is_file():
        raise InputError(f"{project.model} does not exist", "model names a .pt or .onnx")
    found = folders.find(Path(project.data))
    with alone(folder):
        book = Ledger.open(folder, tell)
        return _gone(Way(project, trust, book, progress, epoch, found))


def _gone(way: Way) -> Outcome:
    checked(way)
    if way.labelled:
        divided(way)
        measurable(way)
    model = network(way)
    way.photos = calibration(way)
    builds = tuple(target(way, chip, model) for chip in way.project.build.targets)
    report = way.place("report.html")
    done = Outcome(way.project, tuple(way.book.steps), builds, way.results, report)
    write(page(done), report)
    return done
