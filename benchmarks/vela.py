"""What Vela expects of each model on the four sizes of Ethos-U, and what is left to the processor.

Vela's own estimates, of inference alone; nothing here is measured on a chip.
"""

import sys

from common import DATA, MODELS, photos
from onchip.build import Options, compile_, optimize, parse

ACCELERATORS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-512")


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        plan = optimize(parse(DATA / "models" / f"{name}.onnx", "ethosu", photos(64)), photos(64))
        for accelerator in ACCELERATORS:
            made = compile_(plan, options=Options(target={"accelerator": accelerator}))
            notes = made.manifest.stages[-1].notes
            print(f"{name} {accelerator}: {notes['estimated']}, {notes['on the NPU']}", flush=True)


if __name__ == "__main__":
    main()
