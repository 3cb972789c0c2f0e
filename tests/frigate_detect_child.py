"""Frigate's own detectors and decode, run from a checkout by a Python that has its libraries.

    FRIGATE_SRC=... PYTHON frigate_detect_child.py FOLDER

does what FOLDER/jobs.json says and writes the rows of every job to FOLDER/rows.npz: a job is
`{"decode": size}` of the table in `NAME.npy`, `{"hailo": null}` of boxes by class in there, or
`{"plugin": type, "model": keys}` with the inputs in there, of which also the tables that the
plugin's runtime gave are written, as NAME/tables.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from frigate_child import SRC, stand_in

FOLDER = Path(sys.argv[1])


def plugin(
    kind: str, model: dict[str, Any], inputs: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    from frigate.detectors.detector_config import ModelConfig
    from frigate.detectors.detector_types import DetectorConfig, api_types
    from pydantic import TypeAdapter

    given = ModelConfig(labelmap_path=str(SRC / "labelmap.txt"), **model)
    config = TypeAdapter(DetectorConfig).validate_python({"type": kind, "device": "CPU"})
    config.model = given
    detector = api_types[kind](config)
    runner = detector.runner
    tables = [np.array(runner.run({runner.get_input_names()[0]: x})[0]) for x in inputs]
    return [np.array(detector.detect_raw(x)) for x in inputs], tables


def edgetpu(standins: str, model: dict[str, Any], inputs: np.ndarray) -> list[np.ndarray]:
    """Frigate's plugin for a Coral, with a stand-in for its library."""
    sys.path.insert(0, standins)
    import edgetpu_runtime

    edgetpu_runtime.install()
    from frigate.detectors.detector_config import ModelConfig
    from frigate.detectors.plugins.edgetpu_tfl import EdgeTpuDetectorConfig, EdgeTpuTfl

    config = EdgeTpuDetectorConfig(type="edgetpu", device="usb")
    config.model = ModelConfig(labelmap_path=str(SRC / "labelmap.txt"), **model)
    detector = EdgeTpuTfl(config)
    return [np.array(detector.detect_raw(x)) for x in inputs]


def hailo(classes: np.ndarray) -> np.ndarray:
    """Frigate's plugin on what HailoRT hands it: for each class the boxes that were found."""
    from frigate.detectors.plugins.hailo8l import HailoDetector

    class Store:
        def put(self, tensor: object) -> int:
            return 1

        def get(self, request: int, timeout: float) -> tuple[None, list[np.ndarray]]:
            return None, [c.T[c[4] > 0] for c in classes]

    detector = HailoDetector.__new__(HailoDetector)
    detector.input_store = detector.response_store = Store()
    detector.input_shape = (64, 96, 3)
    return np.array(detector.detect_raw(np.zeros((64, 96, 3), np.uint8)))


def main() -> None:
    stand_in()
    from frigate.util.model import post_process_yolo

    done = {}
    for name, job in json.loads((FOLDER / "jobs.json").read_text()).items():
        given = np.load(FOLDER / f"{name}.npy")
        if "decode" in job:
            done[name] = post_process_yolo([given], *job["decode"])
        elif "hailo" in job:
            done[name] = hailo(given)
        elif "edgetpu" in job:
            done[name] = np.stack(edgetpu(job["edgetpu"], job["model"], given))
        else:
            done[name], done[f"{name}/tables"] = plugin(job["plugin"], job["model"], given)
    np.savez(FOLDER / "rows.npz", **done)


main()
