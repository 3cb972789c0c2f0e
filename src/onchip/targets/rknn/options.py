"""What the user may decide about a Rockchip build (-O NAME=VALUE)."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from onchip.errors import InputError

Cores = Literal["auto", "0", "1", "2", "0_1", "0_1_2", "all"]


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
    dtype: Literal["w8a8", "w16a16i_dfp"] = "w8a8"
    hybrid: str = ""
    level: Literal[0, 1, 2, 3] = 3
    pruning: bool = False
    sparse: bool = False
    single_core: bool = False
    core: Cores = "auto"
    ops: str = ""
    sdk: str = ""
    memory_mb: int = 0


def operations(options: RknnOptions) -> str:
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
