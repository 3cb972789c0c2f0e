"""What Frigate's versions read and run: `versions.toml`."""

from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from onchip.errors import InputError


class Version(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version: the runtimes in its image, and the keys and words that it reads.

    `types` are its detectors, each with the model types that it reads; none means that the model's
    own file decides.
    """

    hailort: str = ""
    rknnrt: str = ""
    top: frozenset[str]
    model: frozenset[str]
    camera: frozenset[str]
    input_tensor: tuple[str, ...]
    input_dtype: tuple[str, ...]
    model_type: tuple[str, ...]
    rknn_presets: tuple[str, ...]
    nested_model: bool = False
    types: dict[str, tuple[str, ...]]


class Kind(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One type of detector: its own keys, its files, the
    chips that run them where they are of one vendor's, and what goes into the configurations.

    `tensor` and `dtype` are what it takes whatever the model, where that is one thing only.
    """

    keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    chips: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    compose: tuple[str, ...] = ()
    image: str = ""
    default: str = ""
    tensor: str = ""
    dtype: str = ""


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table."""

    newest: str
    versions: dict[str, Version]
    detectors: dict[str, Kind]


@cache
def table() -> Table:
    """Return the table."""
    data = files("onchip.device.frigate").joinpath("versions.toml").read_bytes()
    return msgspec.toml.decode(data, type=Table)


def version(name: str) -> Version:
    """Return what a version of Frigate reads: "0.17", or "0.17.2".

    Raises:
        InputError: nothing is known of it.
    """
    known = table().versions
    found = known.get(".".join(name.removeprefix("v").split("-")[0].split(".")[:2]))
    if found is None:
        raise InputError(
            f"nothing is known of Frigate {name}",
            f"known are {', '.join(known)}; --frigate VERSION",
        )
    return found
