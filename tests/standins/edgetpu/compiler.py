"""A stand-in for edgetpu_compiler 16: takes the same words, says the same, computes nothing.

What it makes is a .tflite with one custom operator that holds the network whole, for the stand-in of
the runtime. EDGETPU_STANDIN steers it: leaves=OP[,OP], streams, parts, crash, hang, nofile, internal,
timeout.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

VERSION = "16.0.384591198"
MARK = b"EDGETPU STAND-IN"


def arguments(words: list[str]) -> tuple[Path, Path]:
    """The model and the folder; whatever the real one does not take is refused."""
    folder, models, rest = Path(), [], iter(words)
    for word in rest:
        if word == "-o":
            folder = Path(next(rest))
        elif word == "-t":
            assert int(next(rest)) > 0
        elif word == "-m":
            assert 10 <= int(next(rest)) <= 14
        elif word.startswith("-"):
            assert word == "-s", f"Unknown command line flag {word}"
        else:
            models.append(Path(word))
    assert len(models) == 1 and models[0].suffix == ".tflite" and folder.is_dir()
    return models[0], folder


def names(model: schema.ModelT) -> list[str]:
    known = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    return [
        known[model.operatorCodes[o.opcodeIndex].builtinCode] for o in model.subgraphs[0].operators
    ]


def compiled(model: schema.ModelT, data: bytes) -> bytes:
    """One custom operator between the inputs and the outputs, with the network inside."""
    graph = model.subgraphs[0]
    kept = [*graph.inputs, *graph.outputs]
    tensors = [graph.tensors[n] for n in kept]
    for tensor in tensors:
        tensor.buffer = 0
    code, one = schema.OperatorCodeT(), schema.OperatorT()
    code.customCode, code.version = "edgetpu-custom-op", 1
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    one.inputs = list(range(len(graph.inputs)))
    one.outputs = list(range(len(graph.inputs), len(kept)))
    one.customOptions = np.frombuffer(MARK + len(data).to_bytes(4, "little") + data, np.uint8)
    graph.tensors, graph.operators = tensors, [one]
    graph.inputs, graph.outputs = one.inputs, one.outputs
    model.operatorCodes, model.buffers, model.metadata = [code], [schema.BufferT()], None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> int:
    how = os.environ.get("EDGETPU_STANDIN", "")
    print(f"Edge TPU Compiler version {VERSION}")
    if sys.argv[1:] == ["--version"]:
        return 0
    path, folder = arguments(sys.argv[1:])
    print("Started a compilation timeout timer of 180 seconds.")
    if how == "crash":
        os.abort()
    if how == "hang":
        time.sleep(600)
    if how == "internal":
        print("Internal compiler error. Aborting! ")
        return 1
    if how == "timeout":
        print("Compilation timed out and terminated. Compilation failed!")
        return 1
    data = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    ops = names(model)
    left = set(how.removeprefix("leaves=").split(",")) if how.startswith("leaves=") else set()
    table = Counter((op, op in left) for op in ops)
    on_cpu = sum(n for (_, cpu), n in table.items() if cpu)
    if how != "nofile":
        (folder / f"{path.stem}_edgetpu.tflite").write_bytes(compiled(model, data))
    (folder / f"{path.stem}_edgetpu.log").write_text("")
    print("\nModel compiled successfully in 321 ms.\n")
    print(f"Input model: {path.name}\nInput size: {len(data) / 2**20:.2f}MiB")
    print(f"Output model: {path.stem}_edgetpu.tflite\nOutput size: 3.47MiB")
    print("On-chip memory used for caching model parameters: 2.91MiB")
    print("On-chip memory remaining for caching model parameters: 4.21MiB")
    streamed = "1.25MiB" if how == "streams" else "0.00B"
    print(f"Off-chip memory used for streaming uncached model parameters: {streamed}")
    print(f"Number of Edge TPU subgraphs: {3 if how == 'parts' else 1}")
    print(f"Total number of operations: {len(ops)}\nOperation log: {path.stem}_edgetpu.log")
    if on_cpu:
        print("\nModel successfully compiled but not all operations are supported by the Edge TPU.")
        print(f"Number of operations that will run on Edge TPU: {len(ops) - on_cpu}")
        print(f"Number of operations that will run on CPU: {on_cpu}")
    print("\nOperator                       Count      Status\n")
    for (op, cpu), count in sorted(table.items()):
        status = "Operation not supported" if cpu else "Mapped to Edge TPU"
        print(f"{op:<30} {count:<10} {status}")
    print("Compilation child process completed within timeout period.\nCompilation succeeded! ")
    return 0


sys.exit(main())
