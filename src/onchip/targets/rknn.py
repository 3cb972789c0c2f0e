"""Rockchip NPUs: our plan or the vendor's quantization, through rknn-toolkit2 in its own Python.

The arithmetic was measured in the toolkit's simulator, see docs/decisions/0008-rknn-arithmetic.md:
given the scales as `written` writes them, each layer computes the very codes that our emulation
does.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from onchip.artifact import Artifact
from onchip.errors import InputError, OnchipError, ToolError, UnsupportedError
from onchip.formats import rknn as rknn_file
from onchip.spec import QuantSpec, Verdict
from onchip.targets import rknn_analysis
from onchip.targets.target import Compiled, Job, Part, Session, Target, Task, VendorError
from onchip.toolchains import install
from onchip.toolchains.known import explain
from onchip.toolchains.worker import Worker

if TYPE_CHECKING:
    from onchip.graph.run import Array

PROBES = 16  # photos on which what was built is compared with the float network
MARGIN = 0.02  # of agreement: what so few photos cannot tell apart; ours needs no SDK to read
LOW = 0.5  # of that agreement: less is worth a warning
TOOL = "rknn"

_MOVES = frozenset(
    {"MaxPool", "Resize", "Concat", "Split", "Reshape", "Transpose"}
    | {"Squeeze", "Unsqueeze", "Flatten", "Slice"}
)
_ACTIVATIONS = frozenset({"relu", "leakyrelu", "relu6", "hardswish"})

Cores = Literal["auto", "0", "1", "2", "0_1", "0_1_2", "all"]
_LAST = {"0": 0, "1": 1, "2": 2, "0_1": 1, "0_1_2": 2}  # the last core that each needs
_WAYS = {
    "onchip": "onchip's plan",
    "vendor": "the SDK's own quantization",
    "none": "float16",
}
_ESTIMATES = (
    "# The compiler's own table. Its cycles are static estimates of the convolutions' work:\n"
    "# nothing here was measured on a chip.\n"
)


class RknnOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user may decide about a Rockchip build.

    `quantizer` "auto" builds both ways and keeps what agrees better with the float network.
    `algorithm`, `method`, `dtype` and `hybrid` are the vendor's: hybrid is "auto", "proposal", or
    tensors to raise to float16, separated by commas. `level` is the optimization level. `ops` is a
    Python file with classes of custom operations, which is run (see `--custom-op`). `core` is where
    the board runs it. `sdk` is the toolkit's version, `memory_mb` the most memory that one build
    may take; 0 is no limit.
    """

    quantizer: Literal["auto", "onchip", "vendor", "none"] = "auto"
    algorithm: Literal["normal", "mmse", "kl_divergence"] = "normal"
    method: Literal["channel", "layer"] = "channel"
    dtype: Literal["w8a8", "w16a16i", "w16a16i_dfp"] = "w8a8"
    hybrid: str = ""
    level: Literal[0, 1, 2, 3] = 3
    pruning: bool = False
    sparse: bool = False
    single_core: bool = False
    core: Cores = "auto"
    ops: str = ""
    sdk: str = ""
    memory_mb: int = 0


class _Settled(RknnOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options, and what the file of custom operations holds: a build is made of that too."""

    ops_digest: str = ""


class Rknn(Target):
    """What all Rockchip NPUs share; a chip adds its name."""

    quant = QuantSpec(
        weight_top=126,  # the SDK turns codes of 128 into 127: these survive
        barred_zero=128,  # as a signed code it is 0, which the SDK takes for "symmetric"
        raised=("float16",),
        ops=frozenset({"Conv", "ConvTranspose", "Add", "Mul", "Sigmoid", "AveragePool"})
        | {"LeakyRelu", "Relu", "Clip", "HardSwish", "GlobalAveragePool", "ReduceSum"}
        | _MOVES,
        shared=_MOVES,
        fused=_ACTIVATIONS | {"silu"},
        fused_depthwise=_ACTIVATIONS,
        folded=frozenset({"Sigmoid"}),
    )
    options = RknnOptions
    verified = "compiled and simulated with rknn-toolkit2 2.5.0; not run on a board"
    cores: ClassVar[int] = 1
    uses_photos = True
    reproducible = False  # two builds differ in bytes that the SDK never wrote

    def version(self) -> str:
        """The toolkit's version; empty where it is not installed."""
        try:
            return install.ready(TOOL).version
        except ToolError:
            return ""

    def parts(self) -> tuple[Part, ...]:
        """The toolkit, and on a board its runtime."""
        board = "found" if find_spec("rknnlite") else ""
        return (
            Part("rknn-toolkit2", self.version(), f"onchip toolchain install {TOOL}"),
            Part("RKNNLite (on the board)", board, "pip install rknn-toolkit-lite2, on the board"),
        )

    def settings(self, given: Mapping[str, str]) -> Struct:
        """Read the options and look at the file of custom operations, if one is named."""
        options = super().settings(given)
        assert isinstance(options, RknnOptions)
        if _LAST.get(options.core, 0) >= self.cores:
            raise InputError(
                f"-O core={options.core} names a core that {self.name} does not have",
                f"its cores are 0 to {self.cores - 1}; left out, all are used",
            )
        path = _operations(options)
        digest = hashlib.blake2b(Path(path).read_bytes()).hexdigest() if path else ""
        return _Settled(**msgspec.structs.asdict(options), ops_digest=digest)

    @contextmanager
    def ahead(self, task: Task) -> Iterator[object]:
        """Begin the SDK's own quantization, if it will be wanted: it takes longest."""
        options = task.options
        assert isinstance(options, RknnOptions)
        if "vendor" not in _ways(task, options) or not self.version():
            yield None
            return
        environment, started = install.ready(TOOL, options.sdk), list[Worker]()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(_build, self.name, environment, task, options, "vendor", started)
            try:
                yield future
            finally:
                _end([future], started)

    def compile(self, job: Job) -> Compiled:
        """Build our plan and the vendor's quantization, and keep the better one.

        Raises:
            ToolError: the SDK is not installed, or failed.
            InputError: the options contradict each other, or photos are needed and not given.
        """
        options = _checked(job)
        environment = install.ready(TOOL, options.sdk)
        built, failed = _build_all(self.name, environment, job, options)
        try:
            best, verdicts = _better(job, built)
            verdicts = (*verdicts, *failed)
            return self._compiled(job, options, environment.version, best, verdicts)
        finally:
            for one in built:
                one.worker.close()

    def _compiled(
        self,
        job: Job,
        options: RknnOptions,
        version: str,
        best: "_Built",
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
        )

    def open(self, artifact: Artifact, threads: int = 0) -> Session:
        """Run on this board's NPU, or elsewhere in the SDK's simulator.

        The simulator cannot load a .rknn file: it builds the same model again, in some seconds.

        Raises:
            InputError: the program is damaged or for another chip.
            ToolError: neither the board's runtime nor the SDK is installed.
        """
        program = artifact.payload("program")
        made = rknn_file.parse(program, artifact.manifest.payloads["program"].file)
        if not made.complete:
            raise InputError("the program in the artifact was cut short", "build it again")
        if self.name not in made.platforms:
            raise InputError(
                f"the program was built for {', '.join(made.platforms)}, not for {self.name}"
            )
        options = super().settings(artifact.manifest.options)  # a board needs no operations' file
        assert isinstance(options, RknnOptions)
        if find_spec("rknnlite"):
            from onchip.targets.rknn_board import Board

            return Board(program, tuple(o.name for o in made.outputs), options.core, self.cores)
        return _simulator(self.name, artifact, options)

    def analysis(
        self, artifact: Artifact, tensor: npt.NDArray[np.generic]
    ) -> Mapping[str, VendorError]:
        """The SDK's own accuracy analysis, which it makes only of what it quantized itself.

        Raises:
            UnsupportedError: the program follows onchip's plan.
        """
        if _way(artifact) != "vendor":
            raise UnsupportedError(
                "no analysis of the SDK's own: it makes one only of what it quantized itself"
            )
        with self.open(artifact) as session:
            if not isinstance(session, Simulator):
                raise UnsupportedError("no analysis of the SDK's own: a board does not make one")
            pixels = np.asarray(tensor, np.float32)
            shape = (1, 3, 1, 1)
            mean, std = (
                np.reshape(v, shape)
                for v in (artifact.manifest.input.mean, artifact.manifest.input.std)
            )
            bytes_ = np.clip(np.rint(pixels * std + mean), 0, 255).astype(np.uint8)
            return rknn_analysis.read(session.vendor_analysis(bytes_))


@dataclass(frozen=True)
class _Built:
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

    def __init__(self, built: _Built) -> None:
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


def _checked(job: Job) -> RknnOptions:
    options = job.options
    assert isinstance(options, RknnOptions)
    if options.quantizer == "onchip" and (options.hybrid or options.dtype != "w8a8"):
        raise InputError(
            "hybrid and dtype are the vendor's", "add -O quantizer=vendor, or use --keep-float"
        )
    if "vendor" in _ways(job, options) and not _has_photos(job):
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


def _ways(job: Task, options: RknnOptions) -> list[str]:
    if options.quantizer != "auto":
        return [options.quantizer]
    if options.dtype != "w8a8":
        return ["vendor"]
    return ["onchip", "vendor"] if options.hybrid or _has_photos(job) else ["onchip"]


def _has_photos(job: Task) -> bool:
    return any(True for _ in job.photos(job.input, 0))  # the first may be unreadable


def _operations(options: RknnOptions) -> str:
    """Return where the file of custom operations is, or "" where none is named."""
    if not options.ops:
        return ""
    path = Path(options.ops).resolve()  # the SDK runs in a folder of its own
    if not path.is_file():
        raise InputError(
            f"there is no file {options.ops} with custom operations",
            "the SDK needs it to build, and again to simulate: -O ops=FILE.py",
        )
    return str(path)


def _unused(job: Job, options: RknnOptions) -> tuple[Verdict, ...]:
    from onchip.graph.layout import called

    if not options.ops or called(job.model):
        return ()
    text = f"no custom operation is left before the cut: {options.ops} is not used"
    return (Verdict(code="ops_unused", message=text),)


def _build_all(
    chip: str, environment: install.Environment, job: Job, options: RknnOptions
) -> tuple[list["_Built"], list[Verdict]]:
    """Build every way side by side; when the user ends it, none is left running.

    Where one of two ways fails the other is taken, and a verdict says so.
    """
    ways, started = _ways(job, options), list[Worker]()
    with ThreadPoolExecutor(len(ways)) as pool:
        futures = [
            job.ahead
            if way == "vendor" and isinstance(job.ahead, Future)
            else pool.submit(_build, chip, environment, job, options, way, started)
            for way in ways
        ]
        try:
            wait(futures)
        except BaseException:
            _end(futures, started)
            raise
    errors = [f.exception() for f in futures]
    built = [f.result() for f, e in zip(futures, errors, strict=True) if e is None]
    failures = [(w, e) for w, e in zip(ways, errors, strict=True) if e is not None]
    for _, error in failures:
        if not built or not isinstance(error, ToolError):
            for one in built:
                one.worker.close()
            raise error
    return built, [
        Verdict(code="way_failed", message=f"{_WAYS[w]} was not built: {e}", level="warning")
        for w, e in failures
    ]


def _end(futures: Sequence["Future[_Built]"], started: Sequence[Worker]) -> None:
    """End every worker, also one that is only about to start."""
    while wait(futures, timeout=0.1).not_done:
        for worker in started:
            worker.close()
    for worker in started:
        worker.close()


def _build(
    chip: str,
    environment: install.Environment,
    job: Task,
    options: RknnOptions,
    way: str,
    started: list[Worker],
) -> _Built:
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
            ops=_operations(options),
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
    return _Built(way, program, worker, tuple(o.name for o in job.model.outputs))


def _explained(error: OnchipError) -> OnchipError:
    """Add the cause and cure of a line that is known."""
    found = explain(TOOL, f"{error}\n{error.log}") if isinstance(error, ToolError) else ()
    if not isinstance(error, ToolError) or not found:
        return error
    better = ToolError(str(error), found[0].message)
    better.log = error.log
    return better


def _model(job: Task, options: RknnOptions, way: str) -> bytes:
    from onchip.graph.layout import called, named_back
    from onchip.targets.rknn_qdq import lowered, written

    if way == "onchip":
        assert isinstance(job, Job)
        proto = written(job.model, job.head, job.plan)
    else:
        proto = lowered(job.model.proto)
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


def _vendor(options: RknnOptions, built: _Built) -> str:
    if built.way == "none":
        return "none: float16"
    more = f", hybrid {options.hybrid}" if options.hybrid else ""
    return f"the SDK's {options.algorithm}, by {options.method}{more}"


def _better(job: Job, built: Sequence[_Built]) -> tuple[_Built, tuple[Verdict, ...]]:
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

    def measure(one: _Built) -> float:
        return agreement(job.head, size, wanted, [one(t) for t in tensors])

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


def _simulator(chip: str, artifact: Artifact, options: RknnOptions) -> Simulator:
    """Build an artifact's model again, where it can be run."""
    from onchip.graph import read
    from onchip.quantize.plan import QuantPlan

    manifest = artifact.manifest
    model = read.Model(read.parse(artifact.payload("cut"), "cut.onnx"), manifest.source_sha256)
    plan = msgspec.json.decode(artifact.payload("plan"), type=QuantPlan)
    way = _way(artifact)
    photos = _unpacked(artifact) if way == "vendor" else np.zeros((0,))
    job = Job(
        model=model,
        head=manifest.head,
        input=manifest.input,
        options=options,
        photos=lambda spec, count: photos[:, None],
        plan=plan,
        qdq=b"",
    )
    environment = install.ready(TOOL, manifest.tools.get("rknn-toolkit2", ""))
    return Simulator(_build(chip, environment, job, options, way, []))


def _way(artifact: Artifact) -> str:
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


class Rk3562(Rknn):
    """RK3562: one core."""

    name = "rk3562"
    title = "Rockchip RK3562 (1 TOPS)"


class Rk3566(Rknn):
    """RK3566: one core."""

    name = "rk3566"
    title = "Rockchip RK3566 (0.8 TOPS)"


class Rk3568(Rknn):
    """RK3568: one core."""

    name = "rk3568"
    title = "Rockchip RK3568 (0.8 TOPS)"


class Rk3576(Rknn):
    """RK3576: two cores."""

    name = "rk3576"
    title = "Rockchip RK3576 (6 TOPS, two cores)"
    cores = 2


class Rk3588(Rknn):
    """RK3588 and RK3588S: three cores."""

    name = "rk3588"
    title = "Rockchip RK3588 (6 TOPS, three cores)"
    cores = 3


class Rv1103(Rknn):
    """RV1103: integers only."""

    name = "rv1103"
    title = "Rockchip RV1103 (0.5 TOPS, integers only)"
    quant = replace(Rknn.quant, raised=())


class Rv1106(Rknn):
    """RV1106: integers only."""

    name = "rv1106"
    title = "Rockchip RV1106 (0.5 to 1 TOPS, integers only)"
    quant = replace(Rknn.quant, raised=())


class Rv1126b(Rknn):
    """RV1126B: one core."""

    name = "rv1126b"
    title = "Rockchip RV1126B (3 TOPS)"
