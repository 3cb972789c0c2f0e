"""Milliseconds an image of what ONNX Runtime can run: one thread, all of them in turn.

The bench starts it as `python -m quantizers.speed JOB`; its figures go to a file.
"""

import statistics
import sys
import time
from pathlib import Path

import msgspec
import onnxruntime as ort
from msgspec import Struct
from msgspec.structs import replace

from common import photos
from onchip.artifact import load as artifact
from onchip.vision.preprocess import prepare, read_image

FLOAT = "float"
IMAGES = 40


class Job(Struct, frozen=True, kw_only=True):
    """What to do. Paths: of the parsed network, of the programs by name, and of the figures."""

    parsed: str
    programs: dict[str, str]
    figures: str


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    parsed = artifact(Path(job.parsed))
    files = {FLOAT: parsed.payload("cut")}
    files |= {name: Path(path).read_bytes() for name, path in job.programs.items()}
    sessions = {name: _session(data) for name, data in files.items()}
    taken: dict[str, list[float]] = {name: [] for name in files}
    for path in [*photos(2), *photos(IMAGES)]:  # the first two warm up
        image = read_image(path)
        for name, session in sessions.items():
            entry = session.get_inputs()[0]
            kind = "uint8" if entry.type == "tensor(uint8)" else "float32"
            tensor = prepare(image, replace(parsed.manifest.input, dtype=kind))[0]
            started = time.perf_counter()
            session.run(None, {entry.name: tensor})
            taken[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(times[2:]) for name, times in taken.items()}
    Path(job.figures).write_bytes(msgspec.json.encode(medians))


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
