"""One quantizer on one network, in a process that does nothing else: build, then measure.

The bench starts it as `python -m quantizers.row JOB`; its figures go to a file when all is done.
"""

import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from common import DATA, photos
from onchip.artifact import load as artifact
from onchip.dataset.samples import Sample, load
from onchip.detect.program import Program
from onchip.graph.run import Runner
from onchip.sampling import some
from quantizers.measure import Figures, losses
from quantizers.network import Network
from quantizers.peers import PEERS

HELD_OUT = 64  # the first photos are for calibration, however many of them are used


class Job(Struct, frozen=True, kw_only=True):
    """What to do. Paths: of the parsed network, and where file and figures are put."""

    quantizer: str
    images: tuple[str, ...]
    calibration: int
    limit: int
    parsed: str
    program: str
    figures: str


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    job = msgspec.json.decode(sys.argv[1], type=Job)
    peer = PEERS[job.quantizer]
    count = min(job.calibration, peer.most or job.calibration)
    network = Network(artifact(Path(job.parsed)), tuple(photos(count)))
    quantize = peer.load()
    started = time.perf_counter()
    made = quantize(network)
    seconds, peak = time.perf_counter() - started, peak_mb()
    built: Figures = {
        "calibrated_on": count,
        "seconds": seconds,
        "passes": seconds / float_pass(network),
        "peak_mb": peak,
        "file_mb": len(made.file) / 1e6,
        "floats": made.floats,
        "layers": made.layers,
    }
    head = network.artifact.manifest.head
    floats = Program(Runner(network.cut, threads=1), network.input, head)
    rows: dict[str, Figures] = {}
    with made.open() as run:
        for images in job.images:
            found = samples(images, job.calibration, job.limit)
            lost = losses(floats, Program(run, made.input, head), found)
            rows[images] = {"count": len(found), **built, **lost}
    Path(f"{job.program}.{made.suffix}").write_bytes(made.file)
    Path(job.figures).write_bytes(msgspec.json.encode(rows))


def samples(images: str, calibration: int, limit: int) -> list[Sample]:
    """Return the images to measure on: `tune` are training images that no calibration sees."""
    path = DATA / "coco" / "data.yaml"
    if images == "val":
        return some(load(path).samples, limit)
    seen = set(photos(max(calibration, HELD_OUT)))
    return some([s for s in load(path, "train").samples if s.path not in seen], limit)


def float_pass(network: Network) -> float:
    """Seconds of one FP32 pass over the calibration set, from the files on."""
    run = Runner(network.cut)
    started = time.perf_counter()
    for tensor in network.tensors():
        run(tensor)
    return time.perf_counter() - started


def peak_mb() -> float:
    """The most memory that one process of the build has held so far: this one or what it began."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, ended, *_children_kb(Path("/proc/self"))) / 1024


def _children_kb(process: Path) -> Iterator[int]:
    yield 0
    for listed in process.glob("task/*/children"):
        for number in listed.read_text().split():
            child = Path("/proc", number)
            lines = (child / "status").read_text().splitlines()
            yield from (int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))
            yield from _children_kb(child)


if __name__ == "__main__":
    main()
