"""The compiler as its log tells it: into one context or several, or not at all; and the HEF.

Sources: public logs of DFC 3.28 and 3.33. The instructions of the HEF are the quantized graph, for
the runtime's stand-in; what a reader sees of the file is as the compiler writes it.
"""

import os
from collections.abc import Mapping

from hailo_sdk_client.sdk_backend.sdk_backend_exceptions import BackendAllocatorException

from hailo_standin import knob, stage
from hailo_standin.emulate import Coded, Quantized, modified
from hailo_standin.network import Network
from hailo_standin.ops import PostProcess
from hailo_standin.parse import Parsed
from hailo_standin.recipe import Recipe
from hailo_standin.said import bar, error, info, since, version

import hefs

FITS = {"hailo8l": 2_000_000}  # weights, in one context
MOST = 12_000_000  # of the others
ATTENTION = ("matmul", "softmax")
LARGEST = 500_000  # values of one joined output
CLUSTERS = {"hailo8l": 4}  # the others have 8
REASON = (
    "Failed to save enough resources to fit in the required parameters (in a recoverable manner): "
    "SCs: 326/384, 16bit SCs: 0/384, APUs: 149/120, IAs: 149/192, L3 weights: 138/768, "
    "L3 ios: 200/768, LCUs: 149/96"
)


def compile_(parsed: Parsed, recipe: Recipe, made: Quantized, arch: str) -> bytes:
    """Return a HEF."""
    if not recipe.best:
        info('To achieve optimal performance, set the compiler_optimization_level to "max" by adding '
             "performance_param(compiler_optimization_level=max) to the model script. Note that this "
             "may increase compilation time.")  # fmt: skip
    elif recipe.resources:
        _refuse("Performance Flow requires automatic resource utilization")
    if not since(3, 30):
        for layer in parsed.network.outputs:
            info(f"Adding an output layer after {layer.name}")
    if knob("USER") == "needed" and not os.environ.get("USER"):
        raise KeyError("USER")
    info("Loading network parameters")
    info("Starting Hailo allocation and compilation flow")
    stage("compile")
    contexts = _contexts(parsed.network, recipe, arch)
    _allocate(parsed.network, contexts, arch)
    info("Bandwidth of model inputs: 9.375 Mbps, outputs: 9.22852 Mbps (for a single frame)")
    info("Bandwidth of DDR buffers: 0.0 Mbps (for a single frame)")
    info(f"Bandwidth of inter context tensors: {12.5 * (contexts - 1)} Mbps (for a single frame)")
    info("Building HEF...")
    hef = _hef(parsed, recipe, made, arch, contexts)
    info("Successful Compilation (compilation time: 14s)")
    return hef


def _contexts(network: Network, recipe: Recipe, arch: str) -> int:
    """Decide into how many contexts a network is cut, and say how it was found out."""
    wanted = int(knob("CONTEXTS") or _needed(network, arch))
    info("Building optimization options for network layers...")
    info("Successfully built optimization options - 3s 851ms")
    info("Trying to compile the network in a single context")
    _fail(network)
    if wanted == 1:
        _limits(75)
        return 1
    if recipe.contexts == "disabled":
        _refuse("Context switch is disabled, but model could not fit in single context. consider "
                f"changing it and try again.\nDetailed error is: {REASON}")  # fmt: skip
    info("Single context flow failed: Recoverable single context error")
    info("Using Multi-context flow")
    _limits(60)
    info("Finding the best partition to contexts...")
    if knob("MAPPING") == "partition":
        _refuse("Compiler could not find a valid partition to contexts. Most commom error is: Automri "
                "finished with too many resources on context_2 with 62/184 failures.")  # fmt: skip
    info(f"Found valid partition to {wanted} contexts")
    for _ in bar("Searching for a better partition", range(3), 3):
        pass
    info("Partition to contexts finished successfully")
    info("Partitioner finished after 21 iterations, Time it took: 9s 442ms")
    info(f"Applying selected partition to {wanted} contexts...")
    return wanted


def _limits(share: int) -> None:
    if share == 75:
        info("Using Single-context flow")
    kinds = ("control", "compute", "compute_16bit", "memory", "input_aligner", "apu")
    said = {
        k: f"max_{k}_utilization{' (weights)' if k == 'memory' else ''}={share}%" for k in kinds
    }
    info("Resources optimization guidelines: Strategy -> GREEDY Objective -> MAX_FPS")
    info(f"Resources optimization params: {', '.join(said.values())}")


def _needed(network: Network, arch: str) -> int:
    weights = sum(network.kernel(x).size for x in network.layers if x.weighted)
    most = FITS.get(arch, MOST)
    heavy = weights > most or any(x.kind in ATTENTION for x in network.layers)
    return 1 + heavy * (1 + weights // (2 * most))


def _fail(network: Network) -> None:
    """Fail as a test wants, or because a joined output is larger than anything on the chip."""
    for layer in network.outputs:
        height, width, channels = network.shape(layer)
        if layer.kind == "concat" and height * width * channels > LARGEST:
            _infeasible(layer.name)
    if knob("MAPPING") == "infeasible":
        _infeasible("concat24")
    if knob("MAPPING") == "crash":
        _refuse("unexpected crash", "Compilation failed with unexpected crash")


def _infeasible(layer: str) -> None:
    error("Mapping Failed (allocation time: 13s)\nNo successful assignments: "
          f"{layer} errors:\n\tAgent infeasible\n")  # fmt: skip
    _refuse(f"No successful assignments: {layer} errors:\n\tAgent infeasible")


def _refuse(reason: str, whole: str = "") -> None:
    error("Failed to produce compiled graph")
    text = whole or f"Compilation failed: {reason}"
    error(f"BackendAllocatorException: {text}")
    raise BackendAllocatorException(text)


def _allocate(network: Network, contexts: int, arch: str) -> None:
    info("Validating layers feasibility")
    for index in range(contexts):
        layers = len(network.layers)
        for _ in bar(f"Validating context_{index} layer by layer", range(layers), layers):
            pass
    info("Layers feasibility validated successfully")
    old = "Solving the allocation (Mapping), time per context: 59m 59s"
    info(
        "Running resources allocation (mapping) flow, time per context: 59m 59s"
        if since(3, 30)
        else old
    )
    for index in range(contexts):
        print(f"Context:{index}/{contexts - 1} Iteration 4: Trying parallel mapping...", flush=True)
        _table(CLUSTERS.get(arch, 8))
    info("Successful Mapping (allocation time: 23s)")
    for index in range(contexts):
        info(f"Compiling kernels of {network.name}_context_{index}..." if since(3, 30)
             else f"Compiling context_{index}...")  # fmt: skip


def _table(clusters: int) -> None:
    edge = "+-----------+---------------------+---------------------+--------------------+"
    info(edge)
    info("| Cluster   | Control Utilization | Compute Utilization | Memory Utilization |")
    info(edge)
    for index in range(clusters):
        info(f"| cluster_{index} | {'68.8%':<19} | {'40.6%':<19} | {'15.6%':<18} |")
    info(edge)
    info("| Total     | 75%                 | 62.9%               | 47.8%              |")
    info(edge)


# The file


def _hef(parsed: Parsed, recipe: Recipe, made: Quantized, arch: str, contexts: int) -> bytes:
    network = parsed.network
    whole = modified(parsed, recipe)
    entry = hefs.Layer(
        "input_layer1",
        network.shape(network.input),
        (made.input.scale,),
        (float(made.input.zero),),
        made.input.low,
        made.input.high,
        format=hefs.NHWC,
        original=(network.input.nodes[0],),
    )
    outputs = [
        _output(name, network.shape(end), coded, node, contexts - 1)
        for (name, coded), end, node in zip(
            made.outputs.items(), network.ends, parsed.ends, strict=True
        )
    ]
    return hefs.build(
        version=2 if since(3, 30) else 1 if since(3, 28) else 0,
        arch=2 if arch == "hailo8r" else arch,
        name=network.name,
        inputs=[entry],
        outputs=outputs,
        nms=_nms(recipe.post, recipe) if recipe.post else None,
        ccws=whole.program(made.graph).pack(),
        sdk=version(),
        contexts=contexts,
        others=[_between(network, i) for i in range(1, contexts)],
        fps=_speed(network),
        latency=1.5 / _speed(network),
    )


def _output(
    name: str, shape: tuple[int, int, int], coded: Coded, node: str, context: int
) -> hefs.Layer:
    return hefs.Layer(
        name,
        shape,
        (coded.scale,),
        (float(coded.zero),),
        coded.low,
        coded.high,
        bits=coded.bits,
        original=(node,),
        context=context,
    )


def _between(network: Network, context: int) -> hefs.Layer:
    """What the chip keeps in the host's memory from one context to the next."""
    layer = next(x for x in network.layers if x.weighted)
    shape = network.shape(layer)
    return hefs.Layer(
        layer.name, shape, connection=hefs.INTERMEDIATE, context=context, index=context
    )


def _nms(post: PostProcess, recipe: Recipe) -> hefs.Nms:
    return hefs.Nms(
        kind=post.kind,
        name=recipe.post_name,
        classes=post.classes,
        most=post.most,
        score=post.score,
        iou=post.iou,
        image=post.image,
        decoders=[_decoder(post.kind, d.layers, d.stride, d.anchors) for d in post.decoders],
        regression_length=post.bins,
        boxes_only=recipe.boxes_only,
    )


def _decoder(
    kind: str,
    layers: tuple[str, ...],
    stride: int,
    anchors: tuple[tuple[float, float], ...],
) -> Mapping[str, object]:
    if kind == "yolov5":
        wide, high = [int(a[0]) for a in anchors], [int(a[1]) for a in anchors]
        return {"stride": stride, "w": wide, "h": high, "encoded": layers[0]}
    return {"stride": stride, **dict(zip(("reg", "cls", "obj"), layers, strict=False))}


def _speed(network: Network) -> float:
    """Return frames per second, as the compiler reckons them: by the work alone."""
    work = 0
    for layer in network.layers:
        if layer.weighted:
            height, width, _ = network.shape(layer)
            work += height * width * network.kernel(layer).size
    return round(26e12 * 0.3 / max(2 * work, 1), 2)
