"""The commands of a model script (.alls): as values, as text, and read from a user's own lines."""

import difflib
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from onchip.errors import InputError

NMS_FILE = "nms_config.json"
QUOTED = 60  # characters of it in a message
LONGEST = 20_000  # characters of a user's line; the zoo's longest has 4,825

# All commands of the scripts of Hailo's public model zoo, versions 2.8 to 5.2.
COMMANDS = frozenset(
    {"allocator_param", "bucket", "buffer_calc_param", "buffers", "change_output_activation"}
    | {"compilation_param", "concat", "context", "context_switch_param", "ddr", "defuse"}
    | {"defuse_block", "format_conversion", "hef_param", "input_conversion", "join", "l4_portal"}
    | {"logits_layer", "merge", "model_optimization_config", "model_optimization_flavor"}
    | {"mux_demux", "network_group", "nms_postprocess", "normalization", "output_layer"}
    | {"performance_param", "place", "platform_param", "portal", "post_quantization_optimization"}
    | {"pre_quantization_optimization", "quantization_param", "remove_node", "resize"}
    | {"resize_input", "resources_param", "set_seed", "shape_splitter", "shortcut"}
    | {"spatial_reshape_flow_params", "transpose", "transpose_concat"}
)
BY_SUBJECT = frozenset(
    {"model_optimization_config", "post_quantization_optimization", "pre_quantization_optimization"}
)


class Layers(Struct, frozen=True):
    """Layers in an argument, by their ONNX nodes; written as one name or as a list."""

    nodes: tuple[str, ...]


class NmsFile(Struct, frozen=True):
    """The place of the NMS file, which is known when the script is written."""


Argument = str | Layers | NmsFile


class Command(Struct, frozen=True, kw_only=True):
    """One command: what it is called, its arguments, and what it makes, where that has a name."""

    verb: str
    arguments: tuple[Argument, ...] = ()
    makes: str = ""

    @property
    def subject(self) -> str:
        """What of the optimization it is about ("calibration", "finetune"), where it says so."""
        first = self.arguments[0] if self.arguments else ""
        return first if self.verb in BY_SUBJECT and isinstance(first, str) else ""

    @property
    def keywords(self) -> frozenset[str]:
        """The names of its named arguments."""
        texts = [a for a in self.arguments if isinstance(a, str)]
        return frozenset(t.partition("=")[0] for t in texts if "=" in t)

    def replaces(self, other: "Command") -> bool:
        """Whether it sets what another one sets."""
        if self.verb != other.verb or self.verb == "quantization_param":
            return False
        if self.verb in BY_SUBJECT:
            return self.subject == other.subject
        return bool(self.keywords & other.keywords)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ONNX nodes that it names."""
        return tuple(n for a in self.arguments if isinstance(a, Layers) for n in a.nodes)

    def text(self, layers: Mapping[str, str], nms_file: str = NMS_FILE) -> str:
        """The line, with Hailo's names; nodes without a layer are left out."""
        arguments = ", ".join(_written(a, layers, nms_file) for a in self.arguments)
        return f"{self.makes} = " * bool(self.makes) + f"{self.verb}({arguments})"


def _written(value: Argument, layers: Mapping[str, str], nms_file: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, NmsFile):
        return f'"{nms_file}"'
    found = tuple(dict.fromkeys(layers[n] for n in value.nodes if n in layers))
    return found[0] if len(found) == 1 else f"[{', '.join(found)}]"


_NAME = r"[A-Za-z_][\w./-]*"
_LINE = re.compile(
    rf"(?:(?P<makes>{_NAME}(?:\s*,\s*{_NAME})*)\s*=\s*)?(?P<verb>[\w.]+)\s*\((?P<rest>.*)\)"
)
_TOKEN = re.compile(
    r'\s*(?:(?P<value>"[^"]*"|[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+|[hms]\b)?|\{[][\w./*, -]*\}'
    r"|[A-Za-z_*][\w./*-]*)|(?P<sign>[\[\],=])|(?P<odd>\S))"
)


def parsed(text: str) -> Iterator[Command]:
    """Read a user's script: one command per line, `#` begins a comment.

    Raises:
        InputError: a line is no command, or none that a public script of Hailo's has.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST:
            raise _bad(number, f"has {len(line)} characters", f"at most {LONGEST} are read")
        bare = re.sub(r'("[^"]*")|#.*', lambda m: m[1] or "", line).strip()
        if bare:
            yield _command(bare, number)


def _command(line: str, number: int) -> Command:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _bad(
            number,
            f"is no command: {line[:QUOTED]!r}",
            "a whole command per line, such as quantization_param(conv1, precision_mode=a16_w16)",
        )
    verb = match["verb"]
    if verb.rpartition(".")[2] not in COMMANDS:  # context_0.place(...)
        near = difflib.get_close_matches(verb, COMMANDS, 3, 0.7)
        known = f"did you mean {' or '.join(near)}?" if near else "see Hailo's own guide"
        raise _bad(number, f"has a command that Hailo's scripts have not: {verb[:QUOTED]}", known)
    return Command(
        verb=verb,
        arguments=_Arguments(match["rest"], number).read(),
        makes=re.sub(r"\s*,\s*", ", ", match["makes"] or ""),
    )


class _Arguments:
    """Reads what stands between the brackets of a command, and writes it as the zoo does."""

    def __init__(self, text: str, number: int) -> None:
        self._tokens = [m.group().strip() for m in _TOKEN.finditer(text)]
        self._number = number
        odd = next((m["odd"] for m in _TOKEN.finditer(text) if m["odd"]), "")
        if odd:
            raise _bad(number, f"does not read at {odd!r}", "text stands in double quotes")
        self._tokens = [t for t in self._tokens if t]
        self._next = 0

    def read(self) -> tuple[str, ...]:
        """Return the arguments, each a value or NAME=VALUE."""
        found = []
        while self._next < len(self._tokens):
            found.append(self._argument())
            self._comma("")
        return tuple(found)

    def _argument(self) -> str:
        value = self._value()
        if self._peek() != "=":
            return value
        if not value.isidentifier():
            raise _bad(self._number, f"gives {value[:QUOTED]} a value", "write NAME=VALUE")
        self._next += 1
        return f"{value}={self._value()}"

    def _value(self) -> str:
        word = self._peek()
        self._next += 1
        if word == "[":
            return self._list()
        if word in ("", "]", ",", "="):
            place = repr(word) if word else "its end"
            raise _bad(self._number, f"lacks a value before {place}", "fill it in")
        return word

    def _list(self) -> str:
        """A list of words: the zoo has none inside another."""
        found = []
        while self._peek() not in ("]", ""):
            if self._peek() == "[":
                raise _bad(self._number, "has a list inside a list", "write them one by one")
            found.append(self._value())
            self._comma("]")
        if not self._peek():
            raise _bad(self._number, "opens a list and does not close it", "add ]")
        self._next += 1
        return f"[{', '.join(found)}]"

    def _comma(self, closing: str) -> None:
        word = self._peek()
        if word == ",":
            self._next += 1
        elif word and word != closing:
            raise _bad(self._number, f"lacks a comma before {word[:QUOTED]!r}", "add it")

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""


def _bad(number: int, what: str, hint: str) -> InputError:
    return InputError(f"line {number} of your model script {what}", hint)
