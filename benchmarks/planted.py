"""Plant every fault of tests/test_planted.py in real builds and see whether it is named first.

    python benchmarks/planted.py [--models NAMES] [--kinds TEXT] [--split val] [--recipe fast]

Prints one line per fault: what, in which model, the first guess, and whether that is right.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from common import DATA, MODELS, ROOT

sys.path.insert(0, str(ROOT / "tests"))

from onchip.analyze import analyze
from onchip.quantize.recipe import recipe
from test_planted import KINDS, Bench, look


def main() -> None:
    """Plant, look, count."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--kinds", default="", help="only kinds whose name holds this")
    options.add_argument("--split", default="val", choices=("train", "val"))
    options.add_argument("--recipe", default="balanced")
    given = options.parse_args()
    models = given.models.split(",")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(DATA, Path(folder), given.split, recipe(given.recipe))
        blamed = [m for m in models if not given.kinds and _is_blamed(bench, m)]
        rows = [
            _planted(bench, name, model)
            for model in models
            for name, (_, where) in KINDS.items()
            if model in where and given.kinds in name
        ]
    kinds = {name for name, _ in rows}
    whole = {name for name in kinds if all(right for n, right in rows if n == name)}
    print(f"named first: {sum(r for _, r in rows)} of {len(rows)} faults; "
          f"{len(whole)} of {len(kinds)} kinds in every model")  # fmt: skip
    if not given.kinds:
        print(f"sound builds that are blamed: {', '.join(blamed) or 'none'}")


def _is_blamed(bench: Bench, model: str) -> bool:
    found = analyze(bench.sound(model), bench.data, labelled=True)
    print(f"{'(sound)':<44} {model:<10} {found.code or 'nothing':<14} {found.first}", flush=True)
    return bool(found.code)


def _planted(bench: Bench, name: str, model: str) -> tuple[str, bool]:
    started = time.perf_counter()
    planted = KINDS[name][0](bench, model)
    found = look(planted, bench)
    right = planted.named_by(found)
    wanted = "" if right else f" (wanted {' or '.join(planted.codes)} at {planted.places[:1]})"
    said = f"{'named' if right else 'NOT'}{wanted}  {time.perf_counter() - started:.0f} s"
    guess = found.code or "nothing"
    print(f"{name:<44} {model:<10} {guess:<14} {said}  {found.first}", flush=True)
    return name, right


if __name__ == "__main__":
    main()
