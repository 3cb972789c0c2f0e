"""Frigate's own code, run from a checkout by a Python that has its libraries.

    FRIGATE_SRC=... PYTHON frigate_child.py FOLDER <<< '[{"parse": "mqtt: ..."}, ...]'

prints one JSON answer per order: `{"parse": yaml}` validates a configuration, with `/config/onchip/`
being FOLDER; `{"zmq": yaml, "frames": ["a.npy", ...]}` asks a detector endpoint about RGB frames.
Nothing of Frigate is changed; three modules that only a running Frigate has are stood in for.
"""

import importlib.util
import json
import logging
import os
import sys
import types
from pathlib import Path

SRC = Path(os.environ["FRIGATE_SRC"])
FOLDER = Path(sys.argv[1])


def stand_in() -> None:
    """Give what is generated when Frigate is built, and keep the whole application out."""
    os.environ.setdefault("CONFIG_FILE", str(FOLDER / "none.yml"))
    sys.path.insert(0, str(SRC))
    version = types.ModuleType("frigate.version")
    version.VERSION = "0.18.0-test"  # type: ignore[attr-defined]
    sys.modules["frigate.version"] = version
    embeddings = types.ModuleType("frigate.embeddings")
    embeddings.__path__ = [str(SRC / "frigate" / "embeddings")]  # only its .types are needed
    sys.modules["frigate.embeddings"] = embeddings


class Log(logging.Handler):
    """Keeps what Frigate warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    stand_in()
    log = Log()
    logging.getLogger().addHandler(log)
    from frigate.config import FrigateConfig
    from frigate.detectors import detector_config
    from ruamel.yaml import YAML

    real = detector_config.load_labels

    def labels(path: str | None, *rest: object, **more: object) -> object:
        places = {
            "/config/onchip/": FOLDER,
            "/labelmap/": SRC / "docker/main/rootfs/labelmap",
            "/": SRC,
        }
        if path is None:
            return real(path, *rest, **more)
        near = next(
            (f / path.removeprefix(p) for p, f in places.items() if path.startswith(p)), path
        )
        return real(str(near), *rest, **more)

    detector_config.load_labels = labels

    def parse(text: str) -> object:
        return FrigateConfig.parse_object(YAML(typ="safe").load(text))

    for order in json.load(sys.stdin):
        log.lines.clear()
        try:
            config = parse(order.get("parse") or order["zmq"])
            detector = next(iter(config.detectors.values()))
            answer = {
                "ok": True,
                "type": detector.type,
                "model": detector.model.model_dump(mode="json"),
            }
            answer["labels"] = {str(k): v for k, v in detector.model.merged_labelmap.items()}
            if "zmq" in order:
                answer["rows"] = ask(detector, order["frames"])
        except Exception as error:  # noqa: BLE001 - told to the test
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answer["warned"] = list(log.lines)
        print(json.dumps(answer), flush=True)


def ask(detector: object, frames: list[str]) -> list[list[list[float]]]:
    import numpy as np
    from frigate.detectors.plugins.zmq_ipc import ZmqIpcDetector

    plugin = ZmqIpcDetector(detector)
    return [plugin.detect_raw(np.load(f)[None]).tolist() for f in frames]


if __name__ == "__main__":
    assert importlib.util.find_spec("pydantic"), "this Python has not Frigate's libraries"
    main()
