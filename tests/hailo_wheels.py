"""Wheels as Hailo gives them out, with the stand-ins inside: real ones, and some that are wrong.

    dfc_wheel(folder)                     # hailo_dataflow_compiler-3.33.1-py3-none-linux_x86_64.whl
    hailort_wheel(folder)                 # hailort-4.23.0-cp311-cp311-linux_x86_64.whl
    for_another_python(folder), other_wheel(folder), truncated(wheel), altered(wheel)

A `.pth` among their files adds the Python packages of the tests' own environment, `src/` and
`tests/`, so that the stand-ins find numpy, ONNX Runtime and onchip without any download. How a test
steers them is said in `standins/hailo/hailo_standin/__init__.py`.
"""

import base64
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

TESTS = Path(__file__).parent
STANDINS = TESTS / "standins" / "hailo"
COMPILER = ("hailo_sdk_client", "hailo_sdk_common", "hailo_model_optimization", "tensorflow")
RUNTIME = ("hailo_platform",)
SHARED = ("hailo_standin",)
HERE = f"cp{sys.version_info[0]}{sys.version_info[1]}"
ONLY = f"=={sys.version_info[0]}.{sys.version_info[1]}.*"  # whose packages the `.pth` adds


def dfc_wheel(
    folder: Path,
    version: str = "3.33.1",
    *,
    tag: str = "py3-none-linux_x86_64",
    python: str = ONLY,
    requires: Sequence[str] = (),
) -> Path:
    """The compiler's wheel. The real one runs on more Pythons, and requires pygraphviz and more."""
    files = {**_packages(*COMPILER, *SHARED), **_path("hailo_dataflow_compiler")}
    return _wheel(folder, "hailo-dataflow-compiler", version, tag, python, requires, files)


def hailort_wheel(
    folder: Path,
    version: str = "4.23.0",
    *,
    tag: str = f"{HERE}-{HERE}-linux_x86_64",
    python: str = ">=3.8",
    requires: Sequence[str] = (),
) -> Path:
    """The runtime's wheel, for the Python that runs the tests."""
    files = {**_packages(*RUNTIME, *SHARED), **_path("hailort")}
    return _wheel(folder, "hailort", version, tag, python, requires, files)


def for_another_python(folder: Path) -> Path:
    """The compiler's wheel for a Python that no one has any more."""
    return dfc_wheel(folder, tag="cp36-cp36m-linux_x86_64", python=">=3.6,<3.7")


def other_wheel(folder: Path, name: str = "hailo-model-zoo", version: str = "2.18.0") -> Path:
    """A wheel that is not the compiler's; by default one that people take for it."""
    files = {f"{name.replace('-', '_')}/__init__.py": b""}
    return _wheel(folder, name, version, "py3-none-any", ">=3.8", (), files)


def truncated(wheel: Path) -> Path:
    """The first half of a wheel, as an interrupted download leaves it."""
    data = wheel.read_bytes()
    wheel.write_bytes(data[: len(data) // 2])
    return wheel


def altered(wheel: Path) -> Path:
    """A wheel with one byte changed in the middle of what is packed."""
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wheel.write_bytes(data)
    return wheel


def _packages(*names: str) -> dict[str, bytes]:
    files = (f for name in names for f in sorted((STANDINS / name).rglob("*.py")))
    return {f.relative_to(STANDINS).as_posix(): f.read_bytes() for f in files}


def _path(name: str) -> dict[str, bytes]:
    paths = sysconfig.get_paths()
    places = [paths["purelib"], paths["platlib"], TESTS.parent / "src", TESTS]
    return {f"{name}_standin.pth": "\n".join(dict.fromkeys(map(str, places))).encode() + b"\n"}


def _wheel(
    folder: Path,
    name: str,
    version: str,
    tag: str,
    python: str,
    requires: Sequence[str],
    files: Mapping[str, bytes],
) -> Path:
    """Write a wheel as PEP 427 has it."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}",
                f"Requires-Python: {python}", *(f"Requires-Dist: {r}" for r in requires)]  # fmt: skip
    built = ["Wheel-Version: 1.0", "Generator: onchip", "Root-Is-Purelib: false", *_tags(tag)]
    everything = {
        **files,
        f"{info}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{info}/WHEEL": ("\n".join(built) + "\n").encode(),
    }
    record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in everything.items()]
    everything[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{plain}-{version}-{tag}.whl"
    with ZipFile(path, "w", ZIP_DEFLATED) as packed:
        for place, data in everything.items():
            packed.writestr(place, data)
    return path


def _tags(tag: str) -> Iterator[str]:
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    for platform in platforms:
        for abi in abis:
            for python in pythons:
                yield f"Tag: {python}-{abi}-{platform}"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
