"""What Hailo's compiler really did, read from its log: it says so in passing, and goes on.

The lines are those that versions 3.28 to 3.33 print.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from onchip.spec import Verdict

NO_SIGNAL = 1.0  # dB: an output that is mostly noise
WEAK = 10.0  # dB: an output worth a look


@dataclass(frozen=True)
class Asked:
    """What the model script asks for.

    `wide` are the layers whose output shall have 16 bits; with `wide_ends` also the network's own.
    """

    level: int
    calibration: int
    compression: int = 0
    wide: tuple[str, ...] = ()
    wide_ends: bool = False
    one_context: bool = False


@dataclass(frozen=True)
class Done:
    """What the log says was done; None where it says nothing.

    `snr` is of each output in dB, `narrowed` the layers whose output lost bits, `packed` those
    whose weights got 4 bits.
    """

    level: int | None = None
    compression: int | None = None
    calibration: int | None = None
    finetuned: int | None = None
    contexts: int | None = None
    snr: dict[str, float] = field(default_factory=dict)
    narrowed: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()


def read(log: str) -> Done:
    """Read the compiler's log."""
    contexts = _number(r"Found valid partition to (\d+) contexts", log)
    if contexts is None and "Successful Compilation" in log:
        contexts = 1
    return Done(
        level=_number(r"Reducing optimization level to (-?\d+)", log),
        compression=_number(r"Reducing compression level to (\d+)", log),
        calibration=_number(r"Using dataset with (\d+) entries for calibration", log),
        finetuned=_number(r"Using dataset with (\d+) entries for finetune", log),
        contexts=contexts,
        snr={
            name.rpartition("/")[2]: float(value)
            for name, value in re.findall(r"(\S+) SNR:\s*(-?[\d.]+(?:e-?\d+)?) ?dB", log)
        },
        narrowed=_names(r"Reducing output bits of (\S+) by", log),
        packed=_names(r"Assigning 4bit weights to layer (\S+)", log),
    )


def verdicts(asked: Asked, done: Done) -> tuple[Verdict, ...]:
    """Say what is worse than was asked for; an error is past the gate."""
    return tuple(
        v
        for v in (
            _level(asked, done),
            _calibration(asked, done),
            _compression(asked, done),
            _packed(asked, done),
            _narrowed(asked, done),
            _contexts(asked, done),
            *_snr(done),
        )
        if v is not None
    )


def _level(asked: Asked, done: Done) -> Verdict | None:
    if done.level is None or done.level >= asked.level:
        return None
    text = (
        f"the compiler reduced the optimization level from {asked.level} to {done.level}: give it "
        f"a GPU and 1024 photos (--images 1024), or ask for what it can do: -O level={done.level}"
    )
    return Verdict(code="level_reduced", message=text, level="error")


def _calibration(asked: Asked, done: Done) -> Verdict | None:
    if done.calibration is None or done.calibration >= asked.calibration:
        return None
    text = (
        f"the compiler calibrated on {done.calibration} photos, not on the {asked.calibration} "
        "that it was given: a line of the model script sets calibset_size lower"
    )
    return Verdict(code="calibration_smaller", message=text, level="error")


def _compression(asked: Asked, done: Done) -> Verdict | None:
    if done.compression is None or done.compression >= asked.compression:
        return None
    text = (
        f"the compiler reduced the compression from {asked.compression} to {done.compression}: "
        "it compresses at optimization level 2 and above only"
    )
    return Verdict(code="compression_dropped", message=text, level="error")


def _packed(asked: Asked, done: Done) -> Verdict | None:
    if asked.compression or not done.packed:
        return None
    text = (
        f"weights of {', '.join(done.packed[:3])} got 4 bits, though no compression was asked for: "
        "a line of the model script says so"
    )
    return Verdict(code="weights_packed", message=text, level="error")


def _narrowed(asked: Asked, done: Done) -> Verdict | None:
    if not done.narrowed:
        return None
    names = {x: x.rpartition("/")[2] for x in done.narrowed}
    lost = [
        x
        for x, name in names.items()
        if name in asked.wide or (asked.wide_ends and name.startswith("output_layer"))
    ]
    text = f"the compiler took bits from the output of {', '.join(done.narrowed[:3])}"
    if lost:
        text = f"the compiler gave up the 16 bits of {', '.join(lost[:3])} that were asked for"
    return Verdict(code="output_demoted", message=text, level="error" if lost else "warning")


def _contexts(asked: Asked, done: Done) -> Verdict | None:
    if done.contexts is None or done.contexts < 2:
        return None
    text = (
        f"the network did not fit the chip at once and runs in {done.contexts} parts, one after "
        "the other: slower, most of all for single images"
    )
    level = "error" if asked.one_context else "warning"
    return Verdict(code="multi_context", message=text, level=level)  # type: ignore[arg-type]


def _snr(done: Done) -> Sequence[Verdict]:
    found = []
    for level, code, limit, least in (
        ("error", "snr_none", NO_SIGNAL, float("-inf")),
        ("warning", "snr_low", WEAK, NO_SIGNAL),
    ):
        outputs = [f"{n} {v:.3g} dB" for n, v in done.snr.items() if least <= v < limit]
        if outputs:
            text = (
                f"by the compiler's own figures little of the signal is left at {outputs[0]}"
                f"{f' and {len(outputs) - 1} more' if len(outputs) > 1 else ''}: "
                "onchip verify shows what that costs, onchip analyze where"
            )
            found.append(Verdict(code=code, message=text, level=level))  # type: ignore[arg-type]
    return found


def _number(pattern: str, log: str) -> int | None:
    found = re.findall(pattern, log)
    return int(found[-1]) if found else None


def _names(pattern: str, log: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(pattern, log)))
