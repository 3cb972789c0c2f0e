"""What an INT8 build loses on the 128 validation images: mAP50-95, and agreement with float.

64 calibration images. nanodet_m and yolox_nano do not say how their pixels are prepared: onchip
finds out, as a user's build would.

    python benchmarks/accuracy.py                            all models, for the CPU
    python benchmarks/accuracy.py --target tflite yolov8n
"""

from argparse import ArgumentParser

from common import DATA, MODELS, photos
from onchip.build import build
from onchip.dataset.samples import load
from onchip.report import text
from onchip.verify import verify


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="cpu")
    given = parser.parse_args()
    data = load(DATA / "coco" / "data.yaml")
    for name in given.models:
        made = build(DATA / "models" / f"{name}.onnx", given.target, photos(64))
        proof = verify(made, data, labelled=True)
        print(f"\n{name}: {made.manifest.input.describe()}")
        print(text.proof(proof))
        print("\n".join(text.verdicts(made.manifest.verdicts)), flush=True)


if __name__ == "__main__":
    main()
