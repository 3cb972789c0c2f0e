"""A network's graph, as `get_hn_model` returns it."""

from collections.abc import Iterator, Mapping
from typing import Any

from hailo_sdk_common.hailo_nn.exceptions import HailoNNException
from hailo_sdk_common.hailo_nn.hn_definitions import ActivationTypes, LayerType


class HnLayer:
    """One layer. Shapes are `[-1, H, W, C]`; `inputs` and `outputs` are names with the scope."""

    def __init__(self, name: str, said: Mapping[str, Any]) -> None:
        self._name, self._said = name, said

    @property
    def name(self) -> str:
        """`network/layer`."""
        return self._name

    @property
    def name_without_scope(self) -> str:
        """The layer alone."""
        return self._name.partition("/")[2]

    @property
    def scope(self) -> str:
        """The network."""
        return self._name.partition("/")[0]

    @property
    def inputs(self) -> list[str]:
        """The layers before it."""
        return list(self._said["input"])

    @property
    def outputs(self) -> list[str]:
        """The layers after it."""
        return list(self._said["output"])

    @property
    def op(self) -> LayerType:
        """Its kind."""
        return LayerType(self._said["type"])

    @property
    def input_shapes(self) -> list[list[int]]:
        """The shapes that it reads."""
        return [list(s) for s in self._said["input_shapes"]]

    @property
    def output_shapes(self) -> list[list[int]]:
        """The shapes that it makes, one for each reader."""
        return [list(s) for s in self._said["output_shapes"]]

    @property
    def output_shape(self) -> list[int]:
        """The shape that it makes."""
        return self.output_shapes[0]

    @property
    def output_features(self) -> int:
        """Its channels."""
        return self.output_shape[-1]

    @property
    def original_names(self) -> list[str]:
        """The ONNX nodes in it."""
        return list(self._said["original_names"])

    @property
    def activation(self) -> ActivationTypes:
        """What follows in the same step."""
        return ActivationTypes(self._said.get("params", {}).get("activation", "linear"))


class _NetParams:
    def __init__(self, said: Mapping[str, Any]) -> None:
        self.output_layers_order: list[str] = list(said["output_layers_order"])
        self.net_scopes: list[str] = list(said["net_scopes"])


class HailoNN:
    """A graph of layers, in the order of an HN."""

    def __init__(self, hn: Mapping[str, Any]) -> None:
        self._layers = {n: HnLayer(n, s) for n, s in hn["layers"].items()}
        self.name: str = hn["name"]
        self.net_params = _NetParams(hn["net_params"])

    def __iter__(self) -> Iterator[HnLayer]:
        """Yield the layers."""
        return iter(self._layers.values())

    def stable_toposort(self) -> Iterator[HnLayer]:
        """Yield each layer after those that it reads."""
        return iter(self._layers.values())

    def get_layer_by_name(self, name: str) -> HnLayer:
        """Return a layer by its name, with or without the scope."""
        scoped = name if "/" in name else f"{self.name}/{name}"
        if scoped not in self._layers:
            raise HailoNNException(f"The layer named {name} doesn't exist in the HN")
        return self._layers[scoped]

    def get_input_layers(self) -> list[HnLayer]:
        """Return the inputs."""
        return [x for x in self if x.op == LayerType.input_layer]

    def get_output_layers(self, remove_non_neural_core_layers: bool = True) -> list[HnLayer]:
        """Return what the network ends in: output layers, or a post-process on the host."""
        post = [x for x in self if x.op == LayerType.postprocess]
        if post and remove_non_neural_core_layers:
            return [self._layers[i] for i in post[0].inputs]
        return post or [x for x in self if x.op == LayerType.output_layer]

    def get_real_output_layers(self) -> list[HnLayer]:
        """Return the layers before the output layers, in the order of the end nodes."""
        return [self._layers[n] for n in self.net_params.output_layers_order]

    def predecessors(self, layer: HnLayer) -> list[HnLayer]:
        """Return the layers before one."""
        return [self._layers[n] for n in layer.inputs]

    def successors(self, layer: HnLayer) -> list[HnLayer]:
        """Return the layers after one."""
        return [self._layers[n] for n in layer.outputs]

    def get_input_shapes(self, ignore_conversion: bool = False) -> list[list[int]]:
        """Return the inputs' shapes, `[-1, H, W, C]`."""
        return [x.output_shape for x in self.get_input_layers()]

    def is_transposed(self) -> bool:
        """Whether height and width are swapped."""
        return False
