"""The one class through which everything is done, as public code calls it."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hailo_sdk_common.hailo_nn.hailo_nn import HailoNN
from hailo_sdk_common.states.states import InvalidStateException, States
from hailo_standin import har, hn, knob, recipe, script, stage
from hailo_standin.calibration import Data, data
from hailo_standin.compile import compile_
from hailo_standin.emulate import Network, Quantized, modified, native
from hailo_standin.network import Array
from hailo_standin.ops import by_class, padded
from hailo_standin.optimize import optimize
from hailo_standin.parse import Parsed, translate
from hailo_standin.said import info, version

from hailo_sdk_client.exposed_definitions import SUPPORTED_HW_ARCHS, InferenceContext
from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendRuntimeException

NAME = re.compile(r"[A-Za-z_]\w*")
LATER = (States.QUANTIZED_MODEL, States.COMPILED_MODEL)
S = States


class InvalidArgumentsException(Exception):  # noqa: N818 - the real name
    """The arguments of a call do not go together."""


class _Inputs:
    """What the script changed at the inputs, by input layer."""

    def __init__(self, inputs: dict[str, list[Any]]) -> None:
        self.inputs = inputs


class _Context:
    """Where inference runs; made by `infer_context`, gone after it."""

    def __init__(self, target: InferenceContext, score: float | None) -> None:
        self.target, self.score, self.open = target, score, True


class ClientRunner:
    """One network on its way to a chip."""

    def __init__(self, *, hw_arch: str | None = None, har: str | Path | None = None) -> None:
        if hw_arch is not None and hw_arch not in SUPPORTED_HW_ARCHS:
            raise InvalidArgumentsException(
                f"hw_arch {hw_arch} is not supported, the supported ones are {SUPPORTED_HW_ARCHS}"
            )
        self._state = States.UNINITIALIZED
        self._arch = hw_arch
        self._source = b""
        self._parsed: Parsed | None = None
        self._script = self._script_applied = ""
        self._recipe = recipe.Recipe()
        self._applied = recipe.Recipe()
        self._activated: tuple[str, ...] = ()
        self._hn: dict[str, Any] = {}
        self._quantized: Quantized | None = None
        self._hef: bytes | None = None
        if har is not None:
            self.load_har(har)

    # what is known

    @property
    def state(self) -> States:
        """How far the network is."""
        return self._state

    @property
    def hw_arch(self) -> str:
        """The chip."""
        return self._arch or SUPPORTED_HW_ARCHS[0]

    @property
    def model_name(self) -> str:
        """The network's name."""
        return self._need().network.name

    @property
    def model_script(self) -> str:
        """The script, as it was loaded."""
        return self._script

    @property
    def hef(self) -> bytes | None:
        """The program, where it was compiled."""
        return self._hef

    @property
    def modifications_meta_data(self) -> _Inputs:
        """What the script changed at the inputs."""
        found = [c for c in script.read(self._script) if c.name in ("normalization", "input_conversion", "resize")]  # fmt: skip
        return _Inputs({self._need().network.scoped(self._need().network.input): found})

    def get_hn(self) -> dict[str, Any]:
        """Return the network's layers."""
        self._need()
        return self._hn

    def get_hn_dict(self) -> dict[str, Any]:
        """Return the network's layers."""
        return self.get_hn()

    def get_hn_model(self) -> HailoNN:
        """Return the network's graph."""
        return HailoNN(self.get_hn())

    def get_native_hn_model(self) -> HailoNN:
        """Return the graph as it was parsed."""
        return HailoNN(hn.describe(self._need().network))

    def get_params(self) -> dict[str, Array]:
        """Return the weights."""
        return hn.weights(self._need().network)

    # parsing

    def translate_onnx_model(
        self,
        model: str,
        net_name: str = "model",
        start_node_names: Sequence[str] | None = None,
        end_node_names: Sequence[str] | None = None,
        net_input_shapes: dict[str, list[int]] | None = None,
        augmented_path: str | None = None,
        disable_shape_inference: bool = False,
        disable_rt_metadata_extraction: bool = False,
        net_input_format: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Parse an ONNX file up to its end nodes; return the layers and the weights."""
        stage("translate")
        if not isinstance(model, str):
            raise TypeError(f"model: expected str, got {type(model).__name__}")
        if not NAME.fullmatch(net_name):
            raise InvalidArgumentsException(f"net_name {net_name!r} cannot be written in a script")
        for names in (start_node_names, end_node_names):
            strings = isinstance(names, list) and names and all(isinstance(n, str) for n in names)
            if names is not None and not strings:
                raise InvalidArgumentsException(f"node names are a list of str, not {names!r}")
        if net_input_format is not None or augmented_path is not None:
            raise NotImplementedError("the stand-in does not know these arguments' values")
        del disable_shape_inference, disable_rt_metadata_extraction
        parsed = translate(model, net_name, start_node_names, end_node_names, net_input_shapes)
        proto = onnx.load(model)
        self._source = proto.SerializeToString()
        self._parsed = parsed
        self._become(States.HAILO_MODEL)
        self._hn = hn.describe(parsed.network)
        self._recipe = self._applied = recipe.Recipe()
        self._script = self._script_applied = ""
        self._quantized, self._hef = None, None
        return self._hn, self.get_params()

    # archives

    def save_har(self, har_path: str | Path) -> None:
        """Write everything into one file."""
        parsed, path = self._need(), Path(har_path)
        har.write(path, har.Archive(
            self._state, self.hw_arch, version(), self._source, parsed, self._hn, self._script,
            self._script_applied, self._applied.config or self._recipe.config, self._activated,
            self._quantized, self._hef,
        ))  # fmt: skip
        info(f"Saved HAR to: {path.absolute()}")

    def load_har(self, har: str | Path) -> None:
        """Go on where a file was left."""
        from hailo_standin import har as archives

        found = archives.read(Path(har))
        self._state, self._source, self._parsed = found.state, found.source, found.parsed
        self._arch = self._arch or found.arch
        self._hn, self._activated = dict(found.hn), found.activated
        self._quantized, self._hef = found.quantized, found.hef
        self._script, self._script_applied = found.script, found.applied
        files = recipe.Files(kept=found.config)
        self._recipe, applied = (
            recipe.understand(script.read(text), found.parsed, files)
            for text in (found.script, found.applied)
        )
        self._applied = _sigmoid(applied, found.activated)

    # scripts

    def load_model_script(self, model_script: str | Path, append: bool = False) -> None:
        """Take a script, a file or its text; it replaces the one before unless it is appended."""
        network = self._need().network
        path = _file(model_script)
        text = path.read_text() if path else str(model_script)
        info(f"Loading model script commands to {network.name} from {path or 'string'}")
        folder = path.absolute().parent if path else Path()
        text = _absolute(text, folder)
        text = f"{self._script}\n{text}" if append and self._script else text
        self._recipe = recipe.understand(script.read(text), self._need(), recipe.Files(folder))
        self._script = text

    # optimization

    def optimize_full_precision(self, calib_data: object = None) -> None:
        """Apply the script to the float network."""
        self._in("optimize_full_precision", S.HAILO_MODEL)
        if calib_data is not None:
            data(calib_data, self._need().network)
        self._apply()
        self._become(States.FP_OPTIMIZED_MODEL)

    def optimize(
        self, calib_data: object, data_type: str = "auto", *, work_dir: str | None = None
    ) -> None:
        """Calibrate and quantize. `calib_data` is in pixels where the script normalizes."""
        self._in("optimize", S.HAILO_MODEL, S.FP_OPTIMIZED_MODEL)
        if data_type != "auto" or work_dir is not None:
            raise NotImplementedError("the stand-in does not know these arguments' values")
        if self._state == States.HAILO_MODEL:
            self._apply()
        read: Data = data(calib_data, self._need().network)
        self._quantized, _ = optimize(self._need(), self._now(), read)
        self._become(States.QUANTIZED_MODEL)

    def _apply(self) -> None:
        """Change the network as the script says. Commands that come later change it no more."""
        if self._recipe.unplayed:
            raise NotImplementedError(f"the stand-in cannot play {self._recipe.unplayed}")
        self._activated = self._to_activate(self._recipe)
        self._applied = _sigmoid(self._recipe, self._activated)
        self._script_applied = self._script
        self._hn = self._described()

    def _now(self) -> recipe.Recipe:
        """The script as it is now, but for what changes the network: that was applied before."""
        kept = ("normalization", "conversion", "activations", "post", "post_name", "boxes_only")
        return replace(self._recipe, **{n: getattr(self._applied, n) for n in kept})

    def _described(self) -> dict[str, Any]:
        made, network = self._applied, self._need().network
        post = None
        if made.post is not None:
            post = ("postprocess_output_layer", (made.post.classes, 5, made.post.most))
        name = made.normalization[0] if made.normalization else ""
        return hn.describe(network, made.activations, name, post)

    def _to_activate(self, found: recipe.Recipe) -> tuple[str, ...]:
        """Name the classes' layers that it makes sigmoid by itself, where a test wants that."""
        post, network = found.post, self._need().network
        if knob("SIGMOID") != "auto" or post is None or post.kind != "yolov8":
            return ()
        layers = [network.layer(level.layers[1]) for level in post.decoders]
        linear = [
            x for x in layers if x and found.activations.get(x.name, x.activation) == "linear"
        ]
        for x in linear:
            info(f"The activation function of layer {network.scoped(x)} was replaced by a Sigmoid")
        return tuple(x.name for x in linear)

    # compiling

    def compile(self) -> bytes:
        """Make the program."""
        if self._quantized is None:
            raise BackendRuntimeException(
                "Model requires quantized weights in order to run on HW, but none were given. "
                "Did you forget to quantize?"
            )
        self._hef = compile_(self._need(), self._now(), self._quantized, self.hw_arch)
        self._become(States.COMPILED_MODEL)
        return self._hef

    # inference

    @contextmanager
    def infer_context(
        self,
        inference_context: InferenceContext,
        device_ids: list[str] | None = None,
        nms_score_threshold: float | None = None,
        custom_infer_config: object = None,
    ) -> Iterator[_Context]:
        """Open a place where inference runs."""
        if device_ids is not None or custom_infer_config is not None:
            raise NotImplementedError("the stand-in has no devices here")
        if not isinstance(inference_context, InferenceContext):
            raise InvalidArgumentsException(f"{inference_context!r} is no InferenceContext")
        if inference_context == InferenceContext.SDK_HAILO_HW:
            raise NotImplementedError("the stand-in has no devices here")
        if inference_context == InferenceContext.SDK_FP_OPTIMIZED:
            self._in("infer", S.FP_OPTIMIZED_MODEL, *LATER)
        if inference_context == InferenceContext.SDK_QUANTIZED:
            self._in("infer", *LATER)
        self._need()
        context = _Context(inference_context, nms_score_threshold)
        try:
            yield context
        finally:
            context.open = False

    def infer(
        self,
        context: _Context,
        dataset: object,
        batch_size: int = 1,
        data_count: int | None = None,
    ) -> Any:
        """Run frames; return each last layer as `(N, H, W, C)`, or boxes `(N, classes, 5, most)`."""
        if not isinstance(context, _Context) or not context.open:
            raise InvalidArgumentsException("infer needs a context that is open")
        if type(batch_size) is not int or batch_size < 1:
            raise InvalidArgumentsException(f"batch_size {batch_size!r}")
        parsed = self._need()
        is_native = context.target == InferenceContext.SDK_NATIVE
        network = native(parsed) if is_native else modified(parsed, self._applied)
        graph = None
        if context.target == InferenceContext.SDK_QUANTIZED:
            assert self._quantized is not None
            graph = self._quantized.graph
        read = data(dataset, parsed.network)
        frames = read.first(data_count) if data_count else read.read()
        return self._answers(network, graph, frames, None if is_native else context)

    def _answers(
        self,
        network: Network,
        graph: bytes | None,
        frames: Iterator[Array],
        context: _Context | None,
    ) -> Any:
        program, post = network.program(graph), self._applied.post
        entry = self._entry(graph)
        found: list[dict[str, Array]] = [program(entry(f)) for f in frames]
        if context is not None and post is not None:
            limit = post if context.score is None else replace(post, score=context.score)
            return np.stack([padded(by_class(limit, f), post) for f in found])
        stacked = [np.stack([f[n] for f in found]) for n in network.tensors]
        return stacked[0] if len(stacked) == 1 else stacked

    def _entry(self, graph: bytes | None) -> Callable[[Array], Array]:
        """What becomes of a frame before it is the chip's: pixels are bytes there."""
        if graph is None or self._applied.normalization is None:
            return lambda frame: frame
        return lambda frame: np.clip(np.rint(frame), 0, 255).astype(np.uint8)

    def analyze_noise(
        self,
        dataset: object,
        batch_size: int = 1,
        data_count: int | None = None,
        analyze_mode: str = "simple",
    ) -> None:
        """Measure noise, and return nothing, as the real one does."""
        self._in("analyze_noise", *LATER)
        if analyze_mode not in ("simple", "advanced"):
            raise InvalidArgumentsException(f"analyze_mode {analyze_mode!r}")
        del batch_size, data_count
        data(dataset, self._need().network)

    def profile(
        self, should_use_logical_layers: bool = True, hef_filename: str | None = None
    ) -> dict[str, Any]:
        """Return what is known of each layer's work."""
        del should_use_logical_layers, hef_filename
        network = self._need().network
        layers = {network.scoped(x): {"shape": network.shape(x)} for x in network.layers}
        return {"stats": layers, "latency_data": {}, "model_name": network.name}

    # order

    def _need(self) -> Parsed:
        if self._parsed is None:
            raise InvalidStateException(
                f"The execution of this is not available under the state: {self._state.value}"
            )
        return self._parsed

    def _in(self, name: str, *states: States) -> None:
        if self._state not in states:
            raise InvalidStateException(
                f"The execution of {name} is not available under the state: {self._state.value}"
            )

    def _become(self, state: States) -> None:
        self._state = state


def _sigmoid(found: recipe.Recipe, layers: Sequence[str]) -> recipe.Recipe:
    """Add sigmoids to a script's changes."""
    return replace(found, activations={**found.activations, **dict.fromkeys(layers, "sigmoid")})


def _file(given: str | Path) -> Path | None:
    """Return a script's file, or nothing where the script itself was given."""
    if isinstance(given, Path):
        return given
    return Path(given) if "\n" not in given and Path(given).is_file() else None


def _absolute(text: str, folder: Path) -> str:
    """Return a script with its paths made absolute."""

    def whole(match: re.Match[str]) -> str:
        return f'"{(folder / match[1]).resolve()}"'

    return re.sub(r"""["']([^"'\n]*\.json)["']""", whole, text)
