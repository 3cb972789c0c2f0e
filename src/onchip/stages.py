"""What each stage of a build was made of, and what an older artifact still holds of it."""

import hashlib
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

import onchip
from onchip.artifact import FORMAT, Artifact, Stage
from onchip.spec import Verdict

STAGES = ("parse", "optimize", "compile")
PLANNED = ("source", "cut", "planned", "plan", "photos")
MADE = {"parse": ("source", "cut"), "optimize": PLANNED}  # payloads


def finished(older: Artifact | None, name: str, key: str) -> Artifact | None:
    """Return the older artifact up to a stage, if that stage was made of the same things."""
    if older is None or (record := older.stage(name)) is None or record.key != key:
        return None
    count = STAGES.index(name) + 1
    skipped = tuple(replace(s, skipped=True) for s in older.manifest.stages[:count])
    done = Artifact(replace(older.manifest, stages=skipped), older.payloads)
    return only(done, name) if name in MADE else done


def still_good(older: Artifact | None, begun: Artifact, given: dict[str, str]) -> Artifact | None:
    """Return the older artifact if it has a program of the same plan and options.

    A machine without the compiler would only put an unfinished one in its place.
    """
    if older is None or older.manifest.program_input is None or older.manifest.options != given:
        return None
    before, now = older.stage("optimize"), begun.stage("optimize")
    if before is None or now is None or before.key != now.key:
        return None
    skipped = tuple(replace(s, skipped=True) for s in older.manifest.stages)
    return Artifact(replace(older.manifest, stages=skipped), older.payloads)


def only(artifact: Artifact, name: str) -> Artifact:
    """Return an artifact as a stage left it: what later ones made and said is of another time."""
    count = STAGES.index(name) + 1
    told = artifact.manifest.told
    stale = {code for stage in STAGES[count:] for code in told.get(stage, ())}
    manifest = replace(
        artifact.manifest,
        stages=artifact.manifest.stages[:count],
        payloads={n: r for n, r in artifact.manifest.payloads.items() if n in MADE[name]},
        program_input=None,
        program_head=None,
        options={},
        tools={},
        verdicts=tuple(v for v in artifact.manifest.verdicts if v.code not in stale),
        told={stage: codes for stage, codes in told.items() if stage in STAGES[:count]},
    )
    return Artifact(manifest, {n: artifact.payloads[n] for n in manifest.payloads})


def said(artifact: Artifact, stage: str, now: Sequence[Verdict]) -> dict[str, Any]:
    """Join verdicts; what is said now replaces what an earlier stage said of the same."""
    before, told = artifact.manifest.verdicts, artifact.manifest.told
    codes = tuple(dict.fromkeys(v.code for v in now))
    return {
        "verdicts": (*(v for v in before if v.code not in codes), *now),
        "told": {**told, stage: codes},
    }


def record(name: str, key: str, started: float, **notes: str) -> Stage:
    """Return what is kept of a stage that is done now; `started` is of `time.perf_counter`."""
    return Stage(name=name, key=key, seconds=round(time.perf_counter() - started, 3), notes=notes)


def digests(images: Sequence[Path]) -> list[bytes]:
    """Return the digest of each file."""
    return [_digest(p, (s := p.stat()).st_size, s.st_mtime_ns) for p in images]


@cache
def _digest(path: Path, size: int, time_ns: int) -> bytes:
    """Digest a file, once as long as it does not change: each stage asks for every photo's."""
    return hashlib.blake2b(path.read_bytes(), digest_size=32).digest()


def key(*parts: object) -> str:
    """Digest all that a stage is made of; another version of onchip makes other things of it."""
    digest = hashlib.blake2b(f"{onchip.__version__} {FORMAT}".encode(), digest_size=32)
    for part in parts:
        data = msgspec.json.encode(part, order="deterministic")
        digest.update(hashlib.blake2b(data).digest())
    return digest.hexdigest()
