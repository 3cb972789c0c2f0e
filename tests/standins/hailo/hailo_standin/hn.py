"""A network as the compiler writes it: a JSON of layers, and arrays of weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hailo_standin.network import Array, Layer, Network

PARAMETERS = {"strides": "strides", "dilations": "dilations", "group": "groups", "pads": "pads"}


def describe(
    network: Network,
    activations: Mapping[str, str] | None = None,
    normalization: str = "",
    post: tuple[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Return a network's HN.

    Args:
        network: the layers.
        activations: what the script changed, by layer.
        normalization: the name of the layer that normalizes on the chip.
        post: the name and shape of the layer that decodes and suppresses, in place of the outputs.
    """
    layers: dict[str, Any] = {}
    for layer in network.layers:
        if post and layer.kind == "output_layer":
            continue
        layers[network.scoped(layer)] = _layer(network, layer, activations or {})
    if normalization:
        layers = _inserted(layers, network, normalization)
    if post:
        _end(layers, network, *post)
    return {
        "name": network.name,
        "net_params": {
            "version": "1.0",
            "stage": "HN",
            "clusters_placement": [[]],
            "clusters_to_skip": [],
            "output_layers_order": [network.scoped(x) for x in network.outputs],
            "transposed_net": False,
            "net_scopes": [network.name],
        },
        "layers": layers,
    }


def _layer(network: Network, layer: Layer, changed: Mapping[str, str]) -> dict[str, Any]:
    readers = [x for x in network.layers if layer in x.inputs]
    found: dict[str, Any] = {
        "type": layer.kind,
        "input": [network.scoped(x) for x in layer.inputs],
        "output": [network.scoped(x) for x in readers],
        "input_shapes": [[-1, *network.shape(x)] for x in layer.inputs]
        or [[-1, *network.shape(layer)]],
        "output_shapes": [[-1, *network.shape(layer)]] * max(1, len(readers)),
        "original_names": list(layer.nodes),
        "compilation_params": {},
        "quantization_params": {},
    }
    params = {new: list(layer.fields[old]) if old != "group" else layer.fields[old]
              for old, new in PARAMETERS.items() if old in layer.fields}  # fmt: skip
    if layer.weighted:
        params["kernel_shape"] = list(_kernel(network, layer).shape)
        params["batch_norm"] = False
    if layer.weighted or layer.activation != "linear":
        params["activation"] = changed.get(layer.name, layer.activation)
    if params:
        found["params"] = params
    return found


def _inserted(layers: dict[str, Any], network: Network, name: str) -> dict[str, Any]:
    """Put a normalization between the input and all that reads it."""
    entry, scoped = network.scoped(network.input), f"{network.name}/{name}"
    readers = layers[entry]["output"]
    shape = layers[entry]["output_shapes"][0]
    between = {
        "type": "normalization",
        "input": [entry],
        "output": readers,
        "input_shapes": [shape],
        "output_shapes": [shape] * max(1, len(readers)),
        "original_names": [],
        "compilation_params": {},
        "quantization_params": {},
        "params": {"activation": "linear"},
    }
    for reader in readers:
        layers[reader]["input"] = [scoped if i == entry else i for i in layers[reader]["input"]]
    layers[entry]["output"], layers[entry]["output_shapes"] = [scoped], [shape]
    return {entry: layers[entry], scoped: between} | layers


def _end(layers: dict[str, Any], network: Network, name: str, shape: Sequence[int]) -> None:
    """Put a post-process behind the last layers."""
    scoped = f"{network.name}/{name}"
    for layer in network.outputs:
        layers[network.scoped(layer)]["output"] = [scoped]
    layers[scoped] = {
        "type": "postprocess",
        "input": [network.scoped(x) for x in network.outputs],
        "output": [],
        "input_shapes": [[-1, *network.shape(x)] for x in network.outputs],
        "output_shapes": [[-1, *shape]],
        "original_names": [],
        "compilation_params": {},
        "quantization_params": {},
        "engine": "cpu",
    }


def _kernel(network: Network, layer: Layer) -> Array:
    """Return a kernel as the compiler keeps it: rows, columns, inputs, outputs."""
    kernel = network.kernel(layer)
    if kernel.ndim == 4:
        return kernel.transpose(2, 3, 0, 1) if layer.kind == "dw" else kernel.transpose(2, 3, 1, 0)
    return kernel.T


def weights(network: Network) -> dict[str, Array]:
    """Return the weights by the names that the compiler's `.npz` has."""
    found: dict[str, Array] = {}
    for layer in network.layers:
        if layer.weighted:
            kernel = _kernel(network, layer)
            found[f"{network.scoped(layer)}/kernel:0"] = kernel
            bias = np.zeros(network.shape(layer)[2], np.float32)
            if layer.bias:
                bias = np.asarray(network.model.constants[layer.bias], np.float32)
            found[f"{network.scoped(layer)}/bias:0"] = bias
    return found
