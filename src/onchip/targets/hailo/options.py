"""What the user may decide about a Hailo build (-O NAME=VALUE)."""

from typing import Literal

from msgspec import Struct

from onchip.errors import InputError

LEVELS = ("0", "1", "2", "3", "4")


class HailoOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The compiler's own decisions; every default is explicit, so that nothing is reduced silently.

    `level` is the optimization level: "auto" is the highest that this machine and the photos allow
    without being reduced, a number is taken as it is, and several ("0,1,2") are built side by side
    and the best kept. `finetune` forces the fine-tuning of level 2 on or off; "auto" leaves it to
    the level. `compression` is how many weights may have 4 bits (0 is none, 5 is all).
    `nms` says where boxes are decoded and suppressed: "cpu" is HailoRT on the host, "nn_core" the
    chip (where the family can), "none" leaves the raw tensors to onchip; "auto" is "cpu" where the
    family has it, else "none". `score`, `iou` and `most` (boxes of a class) are written into the
    file; the first two are only defaults, which a program sets again. `performance` is the
    compiler's effort, `utilization` how full each resource of the chip may be (0 leaves it to the
    compiler), `contexts` whether the network may be cut into several. `fps` and `batch` are what to
    optimize for (0 leaves them away).
    `rgb` lets the chip swap the colours of a network that was trained on BGR, so that the program
    takes RGB. `script` is a file with further lines for the model script, or in
    an artifact those lines. `sdk` is the compiler's
    version, `memory_mb` the most memory that it may take; 0 is no limit.
    """

    level: str = "auto"
    finetune: Literal["auto", "on", "off"] = "auto"
    compression: Literal[0, 1, 2, 3, 4, 5] = 0
    nms: Literal["auto", "cpu", "nn_core", "none"] = "auto"
    score: float = 0.2
    iou: float = 0.7
    most: int = 100
    performance: Literal["", "0", "1", "2", "max"] = ""
    utilization: float = 0.0
    contexts: Literal["auto", "single", "multi"] = "auto"
    fps: int = 0
    batch: int = 0
    rgb: bool = False
    script: str = ""
    sdk: str = ""
    memory_mb: int = 0

    def check(self, line: str) -> None:
        """Refuse what makes no sense, for a chip of one line of compilers ("3", "5").

        Raises:
            InputError: `level`, a number, or `sdk` is out of range.
        """
        self.levels()
        if not 0 <= self.utilization <= 1:
            raise InputError(
                f"-O utilization={self.utilization:g} is no share of the chip",
                "write a number up to 1, such as 0.8; 0 leaves it to the compiler",
            )
        for name in ("fps", "batch", "memory_mb"):
            if getattr(self, name) < 0:
                raise InputError(f"-O {name}={getattr(self, name)} is below 0")
        if self.sdk and self.sdk.partition(".")[0] != line:
            raise InputError(
                f"-O sdk={self.sdk} does not build for this chip", f"it needs a compiler {line}.x"
            )

    def levels(self) -> tuple[int, ...]:
        """The optimization levels that are asked for by number; none where it is "auto".

        Raises:
            InputError: `level` is something else.
        """
        if self.level == "auto":
            return ()
        words = [w.strip() for w in self.level.split(",")]
        if not all(w in LEVELS for w in words):
            raise InputError(
                f"-O level={self.level} is not an optimization level",
                "write auto, one of 0 to 4, or several to compare: 0,1,2",
            )
        return tuple(dict.fromkeys(int(w) for w in words))
