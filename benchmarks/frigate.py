"""The mAP50-95 that Frigate's own decode leaves of each model; ours from its 0.4, and from 0.001.

On the 128 validation images, of the files for Frigate's onnx detector in INT8.
"""

import sys

from common import DATA, MODELS, photos
from onchip.build import Options, build
from onchip.dataset.samples import load
from onchip.errors import OnchipError
from onchip.measure.frigate import as_frigate


def main() -> None:
    data = load(DATA / "coco" / "data.yaml")
    for name in sys.argv[1:] or MODELS:
        path = DATA / "models" / f"{name}.onnx"
        try:
            made = build(path, "cpu", photos(64), options=Options(layout="frigate"))
        except OnchipError as error:
            print(f"{name}: {error}", flush=True)
            continue
        found = as_frigate(made, data)
        read = (found.frigate, found.same, found.own)
        print(f"{name}: " + ", ".join(f"{100 * x.map50_95:.1f}" for x in read), flush=True)


if __name__ == "__main__":
    main()
