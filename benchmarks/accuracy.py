"""What an INT8 build loses on the 128 validation images: mAP50-95, and agreement with float.

64 calibration images. nanodet_m and yolox_nano do not say how their pixels are prepared: onchip
finds out, as a user's build would.
"""

import sys

from common import DATA, MODELS, photos
from onchip.build import build
from onchip.dataset.samples import load
from onchip.report import text
from onchip.verify import verify


def main() -> None:
    data = load(DATA / "coco" / "data.yaml")
    for name in sys.argv[1:] or MODELS:
        made = build(DATA / "models" / f"{name}.onnx", "cpu", photos(64))
        proof = verify(made, data, labelled=True)
        print(f"\n{name}: {made.manifest.input.describe()}")
        print(text.proof(proof))
        print("\n".join(text.verdicts(made.manifest.verdicts)), flush=True)


if __name__ == "__main__":
    main()
