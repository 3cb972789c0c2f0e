"""The command line. `--help` and `--version` answer without loading anything."""

import sys

# verb: (module, what it does). A verb's module is loaded when the verb is used.
VERBS = {
    "demo": ("demo", "the whole story on bundled inputs, in under two minutes"),
    "init": ("run", "write the project file of photos, for the next"),
    "run": ("run", "the whole way: check, split, train, export, build, verify, report"),
    "train": ("train", "a detector on your labelled photos, through Ultralytics"),
    "export": ("train", "best.pt -> best.onnx as chips want it, proven to see the same"),
    "annotate": ("annotate", "draw boxes on photos in the browser; a model may propose them"),
    "dataset": ("dataset", "check, mend, split, count and convert photos and their labels"),
    "inspect": ("inspect", "what is in an .onnx, .onchip, .hef, .har or .rknn file"),
    "diff": ("inspect", "what differs between two compiled files or artifacts"),
    "plan": ("build", "what a build would do, and what will go wrong, with no vendor software"),
    "build": ("build", "model + photos -> a proven, compiled .onchip file (the next three)"),
    "parse": ("build", "read a model, find its head, cut it there, prove the cut"),
    "optimize": ("build", "watch it on photos and decide every scale and precision"),
    "compile": ("build", "make the file that the chip runs"),
    "verify": ("prove", "the proof, stage by stage; exit 1 past the gate"),
    "eval": ("prove", "mAP with its interval on labelled images"),
    "bench": ("prove", "latency, and where the time goes"),
    "detect": ("detect", "boxes on images, folders, globs and video"),
    "watch": ("watch", "many cameras, one chip: events with pictures and clips, MQTT, a page"),
    "frigate": ("frigate", "put a model behind Frigate: its configuration, a check, a server"),
    "analyze": ("analyze", "layer by layer: where it broke, and what raising it would win"),
    "deploy": ("deploy", "put it on a board over ssh, prove it there, switch to it; many at once"),
    "targets": ("inspect", "the chips that onchip builds for, and what is installed"),
    "toolchain": ("toolchain", "install, list, check or remove a vendor's SDK"),
    "doctor": ("doctor", "what is wrong with this machine, or with a log, and what to do"),
}

USAGE = """Usage: onchip VERB FILE [options]

Takes a trained object detector to an edge NPU, and proves that it still sees.

{verbs}

  onchip VERB --help     every option, with an example
  onchip --version

Example: onchip build best.onnx -t cpu -c photos/ -o best.onchip
Exit codes: 0 good, 1 past the gate, 2 your input, 3 unsupported, 4 a tool failed, 5 a device"""


def main() -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<9} {text}" for name, (_, text) in VERBS.items())
        sys.stdout.write(USAGE.format(verbs=verbs) + "\n")
        return
    if arguments[0] in ("-V", "--version"):
        from onchip import __version__

        sys.stdout.write(f"onchip {__version__}\n")
        return
    from onchip.cli.app import run

    sys.exit(run(arguments))
