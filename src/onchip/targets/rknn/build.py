"""Drive rknn-toolkit2: every way of building in a worker of its own, and the better one kept.

The worker that built is also the simulator: the SDK cannot load a .rknn file.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import InputError, OnchipError, ToolError
from onchip.spec import HeadSpec, Verdict
from onchip.targets.rknn.options import RknnOptions, operations
from onchip.targets.target import Compiled, Job, Session, Task
from onchip.toolchains import install
from onchip.toolchains.known import explain
from onchip.toolchains.worker import Worker

if TYPE_CHECKING:
    from onchip.graph.run import Array

TOOL = "rknn"
PROBES = 16  # photos on which what was built is compared with the float network
MARGIN = 0.02  # of agreement: what so few photos cannot tell apart; ours needs no SDK to read
LOW = 0.5  # of that agreement: less is worth a warning

_WAYS = {
    "onchip": "onchip's plan",
    "vendor": "the SDK's own quantization",
    "none": "float16",
}
_ESTIMATES = (
    "# The compiler's own table. Its cycles are static estimates of the convolutions' work:\n"
    "# nothing here was measured on a chip.\n"
)


@dataclass(frozen=True)
class Built:
    """One way of building, with the worker that holds it."""

    way: str
    program: bytes
    worker: Worker
    outputs: tuple[str, ...]

    def __call__(self, tensor: npt.NDArray[np.generic]) -> "dict[str, Array]":
        found = self.worker.call("simulate", tensor=np.ascontiguousarray(tensor))
        return dict(zip(self.outputs, found, strict=True))


class Simulator(Session):
    """A model in the SDK's simulator."""

    def __init__(self, built: Built) -> None:
        self._built = built

    def __call__(self, tensor: npt.NDArray[np.generic]) -> "dict[str, Array]":
        """Run one input."""
        return self._built(tensor)

    def vendor_analysis(self, tensor: npt.NDArray[np.generic]) -> str:
        """Return the SDK's own accuracy analysis of one input `(1, 3, H, W)`, as text."""
        return str(self._built.worker.call("analyze", tensor=tensor))

    def close(self) -> None:
        """End the SDK."""
        self._built.worker.close()


def checked(job: Job) -> RknnOptions:
    options = job.options
    assert isinstance(options, RknnOptions)
    if options.quantizer == "onchip" and (options.hybrid or options.dtype != "w8a8"):
        raise InputError(
            "hybrid and dtype are the vendor's", "add -O quantizer=vendor, or use --keep-float"
        )
    if job.layout == "frigate" and (options.quantizer, options.dtype) == ("vendor", "w8a8"):
        raise InputError(
            "the SDK would round boxes of 640 pixels and scores of 0 to 1 to the same 256 steps",
            "with --layout frigate leave -O quantizer out: onchip keeps the decode in float16",
        )
    if "vendor" in ways(job, options) and not _has_photos(job):
        raise InputError("the vendor's quantization needs photos", "name a folder: -c photos/")
    made = {o for n in job.model.proto.graph.node for o in n.output}
    if unknown := [t for t in _raised(options) if t not in made]:
        raise InputError(
            f"the cut graph has no tensor {unknown[0]} to raise",
            "-O hybrid= is auto, proposal, or tensors: a,b,c",
        )
    return options


def _raised(options: RknnOptions) -> list[str]:
    """The tensors that the user wants in float16."""
    if options.hybrid in ("", "auto", "proposal"):
        return []
    return [t.strip() for t in options.hybrid.split(",") if t.strip()]


def ways(job: Task, options: RknnOptions) -> list[str]:
    if options.quantizer != "auto":
        return [options.quantizer]
    if options.dtype != "w8a8":
        return ["vendor"]
    if job.layout == "frigate":
        return ["onchip"]
    return ["onchip", "vendor"] if options.hybrid or _has_photos(job) else ["onchip"]


def _has_photos(job: Task) -> bool:
    return any(True for _ in job.photos(job.input, 0))  # the first may be unreadable


def _unused(job: Job, options: RknnOptions) -> tuple[Verdict, ...]:
    from onchip.graph.layout import called

    if not options.ops or called(job.model):
        return ()
    text = f"no custom operation is left before the cut: {options.ops} is not used"
    return (Verdict(code="ops_unused", message=text),)


def build(chip: str, environment: install.Environment, job: Job, options: RknnOptions) -> Compiled:
    """Build our plan and the SDK's quantization, and keep the better one."""
    built, failed = _build_all(chip, environment, job, options)
    try:
        best, verdicts = _better(job, built)
        return _compiled(job, options, environment.version, best, (*verdicts, *failed))
    finally:
        for one in built:
            one.worker.close()


def _compiled(
    job: Job,
    options: RknnOptions,
    version: str,
    best: Built,
    verdicts: tuple[Verdict, ...],
) -> Compiled:
    log = best.worker.log
    found = explain(TOOL, log)
    if wrong := [v for v in found if v.level == "error"]:
        failure = ToolError(f"the SDK built a file that cannot be trusted: {wrong[0].message}")
        failure.log = log
        raise failure
    extras = {"log": ("compile.log", log.encode())}
    if table := layer_table(log):
        extras["table"] = ("layers.txt", (_ESTIMATES + table).encode())
    if best.way == "vendor":
        extras["calibration"] = ("calibration.npz", _packed(job))
    return Compiled(
        payload=best.program,
        suffix="rknn",
        input=replace(job.input, dtype="uint8", layout="nhwc"),
        tools={"rknn-toolkit2": version},
        verdicts=(*verdicts, *_unused(job, options), *found),
        notes={
            "quantizer": _WAYS["onchip"] if best.way == "onchip" else _vendor(options, best),
            "seconds in the SDK": f"{best.worker.seconds:.1f}",
        },
        extras=extras,
        head=_head(job),
    )


def _build_all(
    chip: str, environment: install.Environment, job: Job, options: RknnOptions
) -> tuple[list["Built"], list[Verdict]]:
    """Build every way side by side; when the user ends it, none is left running.

    Where one of two ways fails the other is taken, and a verdict says so.
    """
    chosen, started = ways(job, options), list[Worker]()
    with ThreadPoolExecutor(len(chosen)) as pool:
        futures = [
            job.ahead
            if way == "vendor" and isinstance(job.ahead, Future)
            else pool.submit(build_one, chip, environment, job, options, way, started)
            for way in chosen
        ]
        try:
            wait(futures)
        except BaseException:
            end(futures, started)
            raise
    errors = [f.exception() for f in futures]
    built = [f.result() for f, e in zip(futures, errors, strict=True) if e is None]
    failures = [(w, e) for w, e in zip(chosen, errors, strict=True) if e is not None]
    for _, error in failures:
        if not built or not isinstance(error, ToolError):
            for one in built:
                one.worker.close()
            raise error
    return built, [
        Verdict(code="way_failed", message=f"{_WAYS[w]} was not built: {e}", level="warning")
        for w, e in failures
    ]


def end(futures: Sequence["Future[Built]"], started: Sequence[Worker]) -> None:
    """End every worker, also one that is only about to start."""
    while wait(futures, timeout=0.1).not_done:
        for worker in started:
            worker.close()
    for worker in started:
        worker.close()


def build_one(
    chip: str,
    environment: install.Environment,
    job: Task,
    options: RknnOptions,
    way: str,
    started: list[Worker],
) -> Built:
    worker = Worker(
        environment,
        "rknn_calls",
        f"rknn-toolkit2 {environment.version}",
        memory_mb=options.memory_mb,
        settings={"RKNN_LOG_LEVEL": "3"},  # its table of layers, memory and cycles
    )
    started.append(worker)
    raised = _raised(options) if way == "vendor" else []
    try:
        (worker.folder / "model.onnx").write_bytes(_model(job, options, way))
        images = _calibration(job, worker) if way == "vendor" else 0
        program = worker.call(
            "build",
            progress=lambda what, done, total: job.progress(f"rknn {way} {what}", done, total),
            model="model.onnx",
            config=_config(chip, job, options),
            ops=operations(options),
            quantize=way == "vendor",
            images=images,
            hybrid=options.hybrid if way == "vendor" and not raised else "",
            raised=raised,
        )
    except OnchipError as error:
        worker.close()
        raise _explained(error) from error
    except BaseException:
        worker.close()
        raise
    head, own = _head(job), tuple(o.name for o in job.model.outputs)
    return Built(way, program, worker, head.outputs if head else own)


def _head(job: Task) -> HeadSpec | None:
    """How the program's end reads, where that is not as the float network's."""
    from onchip.graph.decoded import table

    return table(job.head) if job.layout == "frigate" else None


def _explained(error: OnchipError) -> OnchipError:
    """Add the cause and cure of a line that is known."""
    found = explain(TOOL, f"{error}\n{error.log}") if isinstance(error, ToolError) else ()
    if not isinstance(error, ToolError) or not found:
        return error
    better = ToolError(str(error), found[0].message)
    better.log = error.log
    return better


def _model(job: Task, options: RknnOptions, way: str) -> bytes:
    from onchip.graph.decoded import decoded
    from onchip.graph.layout import called, named_back
    from onchip.targets.rknn.qdq import lowered, written

    if way == "onchip":
        assert isinstance(job, Job)
        proto = written(job.network, job.head, job.plan)
    else:
        proto = lowered(job.model.proto)
    if job.layout == "frigate":
        decoded(proto, job.model, job.head, job.input)
    names = called(job.model) if options.ops else {}  # without classes: as the standard ones
    return bytes(named_back(proto, names).SerializeToString())


def _calibration(job: Task, worker: Worker) -> int:
    """Write the calibration inputs where the SDK reads them: as they are, never letterboxed."""
    count = 0
    for tensor in job.photos(replace(job.input, dtype="uint8", layout="nchw"), 0):
        np.save(worker.folder / f"{count}.npy", tensor)
        count += 1
    return count


def _packed(job: Job) -> bytes:
    """The calibration inputs in one file: without them the simulator could not build again."""
    from io import BytesIO

    file = BytesIO()
    tensors = list(job.photos(replace(job.input, dtype="uint8", layout="nchw"), 0))
    np.savez_compressed(file, photos=np.concatenate(tensors))
    return file.getvalue()


def _config(chip: str, job: Task, options: RknnOptions) -> dict[str, Any]:
    return {
        "mean_values": [list(job.input.mean)],
        "std_values": [list(job.input.std)],
        "target_platform": chip,
        "quantized_dtype": options.dtype,
        "quantized_algorithm": options.algorithm,
        "quantized_method": options.method,
        "optimization_level": options.level,
        "model_pruning": options.pruning,
        "sparse_infer": options.sparse,
        "single_core_mode": options.single_core,
        "custom_string": f"onchip {job.key}",
    }


def _vendor(options: RknnOptions, built: Built) -> str:
    if built.way == "none":
        return "none: float16"
    more = f", hybrid {options.hybrid}" if options.hybrid else ""
    return f"the SDK's {options.algorithm}, by {options.method}{more}"


def _better(job: Job, built: Sequence[Built]) -> tuple[Built, tuple[Verdict, ...]]:
    """Return what agrees best with the float network on some photos, and say how well."""
    tensors = list(job.photos(replace(job.input, dtype="uint8", layout="nhwc"), PROBES))
    if not tensors:
        return built[0], ()
    from onchip.graph.run import Runner
    from onchip.quantize.agreement import agreement

    float_spec = replace(job.input, dtype="float32", layout="nchw")
    run = Runner(job.model.bytes)
    wanted = [run(t) for t in job.photos(float_spec, PROBES)]
    size = (job.input.width, job.input.height)

    def measure(one: Built) -> float:
        return agreement(job.head, size, wanted, [one(t) for t in tensors], _head(job))

    with ThreadPoolExecutor(len(built)) as pool:
        found = list(pool.map(measure, built))
    trust = [v + MARGIN if one.way == "onchip" else v for one, v in zip(built, found, strict=True)]
    best = trust.index(max(trust))
    figures = ", ".join(
        f"{_WAYS[one.way]} {value:.1%}" for one, value in zip(built, found, strict=True)
    )
    text = f"agreement with the float network on {len(tensors)} photos: {figures}"
    if len(built) > 1:
        text += f"; {_WAYS[built[best].way]} is used"
    low = found[best] < LOW
    text += "; it sees little of what the network does: run onchip verify" if low else ""
    verdict = Verdict(code="quantizer", message=text, level="warning" if low else "info")
    return built[best], (verdict,)


def simulator(chip: str, artifact: Artifact, options: RknnOptions) -> Simulator:
    """Build an artifact's model again, where it can be run."""
    from onchip.graph import read
    from onchip.quantize.plan import QuantPlan

    manifest = artifact.manifest
    planned = "planned" if "planned" in artifact.payloads else "cut"
    model, network = (
        read.Model(read.parse(artifact.payload(n), f"{n}.onnx"), manifest.source_sha256)
        for n in ("cut", planned)
    )
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    way = way_of(artifact)
    photos = _unpacked(artifact) if way == "vendor" else np.zeros((0,))
    job = Job(
        model=model,
        network=network,
        head=manifest.head,
        input=manifest.input,
        options=options,
        layout=manifest.layout,
        photos=lambda spec, count: photos[:, None],
        plan=plan,
        qdq=b"",
    )
    environment = install.ready(TOOL, manifest.tools.get("rknn-toolkit2", ""))
    return Simulator(build_one(chip, environment, job, options, way, []))


def way_of(artifact: Artifact) -> str:
    """How an artifact's program was built."""
    stage = artifact.stage("compile")
    said = stage.notes.get("quantizer", "") if stage else ""
    if said == _WAYS["onchip"]:
        return "onchip"
    return "none" if said.startswith("none") else "vendor"


def _unpacked(artifact: Artifact) -> npt.NDArray[np.generic]:
    from io import BytesIO

    data = artifact.payloads.get("calibration", b"")
    try:
        photos: npt.NDArray[np.generic] = np.load(BytesIO(data), allow_pickle=False)["photos"]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            "the artifact has no calibration photos, and the simulator needs them to build the "
            "SDK's own quantization again",
            "build it again with -c photos/",
        ) from error
    return photos


def layer_table(log: str) -> str:
    """Return the compiler's own table of layers with its totals, "" where there is none.

    Cycles are its static estimates of the convolutions' work; nothing there was measured.
    """
    lines = [x.partition("] ")[2] for x in log.splitlines() if x.startswith("D RKNN:")]
    start = next((i for i, x in enumerate(lines) if "Network Layer Information" in x), None)
    if start is None:
        return ""
    rows = [x.rstrip() for x in lines[start + 2 :]]
    end = next((i for i, x in enumerate(rows) if i > 2 and x.startswith("----")), len(rows))
    totals = [x.strip() for x in rows if x.startswith("Total ") and "Memory Size" in x]
    return "\n".join([*rows[:end], *totals])
