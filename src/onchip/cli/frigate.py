"""frigate: config, check, serve."""

import sys
import time
from functools import partial
from pathlib import Path

import click
import msgspec

from onchip.cli.options import as_json, command, group
from onchip.cli.output import print_json, print_text
from onchip.cli.stopping import stopping

EVERY = 30.0  # seconds between two lines of figures
EVERY_JSON = 5.0


@group("onchip frigate config best.onchip -o frigate/")
def frigate_verb(context: click.Context) -> None:
    """Put a model behind Frigate: its configuration, a check of yours, a server that it asks.

    With --json each of these prints one JSON object; serve one every few seconds.
    """
    if context.invoked_subcommand is None:
        print_text(context.get_help())


_frigate = click.option("--frigate", default="", help="Frigate's version: 0.14 to 0.18 [0.17].")


@command("onchip frigate config best.onchip -o frigate/")
@click.argument("artifact", type=Path)
@click.option("--detector", default="", help="Frigate's: hailo8l, rknn, onnx, openvino, zmq, ...")
@_frigate
@click.option("--endpoint", default="", help="Where onchip frigate serve is, for zmq.")
@click.option("-o", "--out", type=Path, help="A folder for it, the model and its labels.")
@as_json
def config_verb(
    artifact: Path, detector: str, frigate: str, endpoint: str, out: Path | None, as_json: bool
) -> int:
    """Write the detectors and model sections of Frigate's config.yml for ARTIFACT, with reasons.

    With -o also the model file and the label file that they name. zmq works for every artifact.
    """
    from onchip.artifact import load
    from onchip.device.frigate import check, config, serve

    made = config.config(
        load(artifact),
        artifact.name,
        detector=detector,
        frigate=frigate,
        endpoint=endpoint or serve.ENDPOINT,
    )
    files = config.write(made, out) if out is not None else ()
    if as_json:
        print_json(
            {
                "detector": made.detector,
                "frigate": made.version,
                "yaml": made.yaml,
                "files": [str(f) for f in files],
                "findings": msgspec.to_builtins(made.findings),
            }
        )
    else:
        print_text(made.yaml.rstrip() if out is None else "\n".join(f"wrote {f}" for f in files))
        if made.findings:
            sys.stderr.write(check.describe(made.findings) + "\n")
    return 1 if check.failed(made.findings) else 0


@command("onchip frigate check config.yml best.hef")
@click.argument("config", type=Path)
@click.argument("model", type=Path, required=False)
@_frigate
@click.option("--chip", default="", help="The chip in the machine: hailo8l, rk3588, ...")
@as_json
def check_verb(config: Path, model: Path | None, frigate: str, chip: str, as_json: bool) -> int:
    """Say what in Frigate's CONFIG will not work, with MODEL where one is given, and what to do.

    MODEL is an .onchip, .hef, .rknn, .onnx or .tflite file. Leaves with exit code 1 if something
    will not work; warnings alone are 0.
    """
    from onchip.device.frigate import check

    found = check.check(config, model, frigate=frigate, chip=chip)
    if as_json:
        passed = not check.failed(found)
        print_json({"passed": passed, "findings": msgspec.to_builtins(found)})
    else:
        print_text(check.describe(found))
    return 1 if check.failed(found) else 0


@command("onchip frigate serve best.onchip")
@click.argument("artifact", type=Path)
@click.option("--endpoint", default="", help="ipc:///a/path or tcp://127.0.0.1:5555.")
@as_json
def serve_verb(artifact: Path, endpoint: str, as_json: bool) -> None:
    """Answer Frigate's zmq detector with ARTIFACT, on whatever chip it was built for.

    Frigate's half: onchip frigate config ARTIFACT --detector zmq. Ctrl-C ends it.
    """
    import numpy as np

    from onchip.device.frigate import serve
    from onchip.sight import open_sight

    endpoint = endpoint or serve.ENDPOINT
    if serve.beyond(endpoint):
        sys.stderr.write(
            f"warning: {endpoint}: whoever reaches this address can send frames, and there is no "
            "password. A firewall, or an address of a network of its own, keeps others out\n"
        )
    opened = partial(open_sight, artifact, limits=serve.LIMITS)
    with stopping() as stop, serve.Eyes(opened) as eyes, serve.serve(endpoint) as run:
        eyes(np.zeros((64, 64, 3), np.uint8))  # the first look is slow, and shows what fails
        if not as_json:
            sys.stderr.write(f"Serving {artifact.name} at {endpoint}, Ctrl-C ends it.\n")
            sys.stderr.flush()
        run(eyes, stop, partial(_tell, as_json), EVERY_JSON if as_json else EVERY)


def _tell(as_json: bool, figures: "object") -> None:
    from onchip.device.frigate.serve import Figures

    assert isinstance(figures, Figures)
    if as_json:
        print_json(figures.data())
    elif figures.frames or figures.refused or figures.failed:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {figures.line()}\n")
        sys.stderr.flush()


for _verb, _text in {
    config_verb: "the right detectors: and model: for an artifact, with the files they name",
    check_verb: "what in a config.yml will not work with a model, and what to do",
    serve_verb: "answer Frigate's zmq detector with any artifact, on any chip",
}.items():
    _verb.short_help = _text
    frigate_verb.add_command(_verb)
