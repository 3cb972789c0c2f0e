"""What a run came to, as a value, as text and as JSON-ready data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onchip.artifact import Artifact
from onchip.errors import OnchipError
from onchip.measure.proof import Proof
from onchip.report import data as as_data
from onchip.report import text as as_text
from onchip.run.ledger import Step
from onchip.run.project import Project


@dataclass(frozen=True)
class Built:
    """What became of one target: a file and its proof, or why there is none."""

    target: str
    path: Path
    artifact: Artifact | None = None
    proof: Proof | None = None
    error: OnchipError | None = None

    @property
    def verdict(self) -> str:
        """One word, or three."""
        if self.artifact is None:
            return "not built"
        if self.proof is None:
            return "not proven"
        if not self.proof.passed:
            return "failed"
        return "passed" if self.artifact.manifest.program_input is not None else "plan only"


@dataclass(frozen=True)
class Outcome:
    """A whole run."""

    project: Project
    steps: tuple[Step, ...]
    builds: tuple[Built, ...]
    results: Path | None  # the trainer's own table, epoch by epoch
    report: Path

    @property
    def state(self) -> str:
        """The verdict over all targets."""
        found = [b.verdict for b in self.builds]
        worst = ("failed", "not built", "not proven", "plan only")
        return next((v for v in worst if v in found), "passed")

    @property
    def exit_code(self) -> int:
        """0 where all is proven; that of the first build that could not be made; 1 past a gate."""
        broken = next((b.error for b in self.builds if b.error is not None), None)
        if broken is not None:
            return broken.exit_code
        return 1 if self.state == "failed" else 0


def line(said: Mapping[str, object]) -> str:
    """What a step has to say, in one line.

    >>> line({"images": 250, "errors": 0, "mAP50": 0.9312, "file": "best.onnx"})
    'images 250, errors 0, mAP50 0.931, file best.onnx'
    """
    return ", ".join(f"{k} {_short(v)}" for k, v in said.items() if v is not None)


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def step_text(step: Step) -> str:
    """One line for one step."""
    took = "unchanged" if step.skipped else f"{step.seconds:.1f} s"
    return f"{step.name:<16} {took:>10}  {line(step.said)}".rstrip()


def text(done: Outcome) -> str:
    """What is printed in the end: each build's proof, and where the page is."""
    parts = []
    for built in done.builds:
        parts.append(f"\n{built.target}: {built.verdict}")
        if built.proof is not None:
            parts.append(as_text.proof(built.proof))
        if built.error is not None:
            parts.append(f"  {built.error}")
            parts += [f"  {built.error.hint}"] if built.error.hint else []
    return "\n".join([*parts, f"\n{done.state}; the whole report: {done.report}"])


def data(done: Outcome) -> dict[str, object]:
    """The same as JSON-ready data."""
    return {
        "project": done.project.name,
        "state": done.state,
        "steps": [
            {
                "name": s.name,
                "seconds": s.seconds,
                "skipped": s.skipped,
                "command": s.command,
                "said": s.said,
            }
            for s in done.steps
        ],
        "builds": [_built(b) for b in done.builds],
        "report": str(done.report),
    }


def _built(built: Built) -> dict[str, object]:
    error = built.error
    return {
        "target": built.target,
        "artifact": str(built.path) if built.artifact is not None else None,
        "verdict": built.verdict,
        "proof": as_data.proof(built.proof) if built.proof is not None else None,
        "error": None
        if error is None
        else {"code": error.code, "message": str(error), "hint": error.hint},
    }
