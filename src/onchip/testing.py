"""The contract of a target: inherit it in a test, name the target, and pytest checks the rest.

class TestMyChip(TargetContract):
    target = MyChip()
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np

from onchip.artifact import Artifact, load, save
from onchip.build import build
from onchip.detect.detector import Detector
from onchip.errors import OnchipError
from onchip.spec import InputSpec, QuantSpec
from onchip.targets.target import Target, get
from onchip.vision.codes import all_real
from onchip.vision.preprocess import find_images, prepare, read_image


class TargetContract:
    """What every target must do. Needs the fixtures `tiny` (an ONNX detector) and `photos`."""

    target: ClassVar[Target]
    kept: ClassVar[Artifact]

    def made(self, tiny: Path, photos: Path) -> Artifact:
        """Return the little detector, built for the target when it is first asked for."""
        if "kept" not in vars(type(self)):
            type(self).kept = self.made_anew(tiny, photos)
        return self.kept

    def made_anew(self, tiny: Path, photos: Path) -> Artifact:
        """Build the little detector for the target."""
        return build(tiny, self.target.name, find_images(photos))

    def test_is_registered_under_its_name(self) -> None:
        """`-t NAME` finds it through its entry point."""
        assert isinstance(get(self.target.name), type(self.target))
        assert self.target.title
        assert self.target.version()

    def test_arithmetic_is_a_value(self) -> None:
        """Its limits are derived, not typed."""
        quant = self.target.quant
        assert isinstance(quant, QuantSpec)
        assert quant.qmax - quant.qmin == (1 << quant.bits) - 1

    def test_builds_and_sees(self, tiny: Path, photos: Path) -> None:
        """The compiled program gives every head tensor, in the shape of the float network's."""
        made = self.made(tiny, photos)
        spec = made.manifest.program_input
        assert isinstance(spec, InputSpec)
        with Detector(made) as detector:
            tensor, _ = prepare(read_image(find_images(photos)[0]), spec)
            found = all_real(detector.session(tensor))
            assert set(found) == set(detector.program.head.outputs)
            assert all(np.isfinite(v).all() for v in found.values())
            assert all(v.dtype == np.float32 for v in found.values())

    def test_same_input_same_output(self, tiny: Path, photos: Path) -> None:
        """Running twice, and building twice, gives the same."""
        first, second = self.made(tiny, photos), self.made_anew(tiny, photos)
        if self.target.reproducible:
            assert first.payload("program") == second.payload("program")
        image = read_image(find_images(photos)[0])
        with Detector(first, confidence=0.01) as a, Detector(second, confidence=0.01) as b:
            np.testing.assert_array_equal(a(image).boxes, a(image).boxes)
            np.testing.assert_array_equal(a(image).boxes, b(image).boxes)

    def test_many_callers_at_once(self, tiny: Path, photos: Path) -> None:
        """Where a session may be called by several threads, each gets what it gets alone."""
        images = [read_image(path) for path in find_images(photos)] * 5
        with Detector(self.made(tiny, photos), confidence=0.01, threads=1) as detector:
            if not detector.session.parallel:
                return
            alone = [detector(image).boxes for image in images]
            with ThreadPoolExecutor(6) as pool:
                together = [found.boxes for found in pool.map(detector, images)]
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_survives_the_artifact(self, tiny: Path, photos: Path, tmp_path: Path) -> None:
        """What was saved sees what the build saw."""
        made = self.made(tiny, photos)
        save(made, tmp_path / "a.onchip")
        image = read_image(find_images(photos)[0])
        with (
            Detector(made, confidence=0.01) as a,
            Detector(load(tmp_path / "a.onchip"), confidence=0.01) as b,
        ):
            np.testing.assert_array_equal(a(image).boxes, b(image).boxes)

    def test_refuses_a_damaged_program(self, tiny: Path, photos: Path) -> None:
        """A program cut short is an error of onchip's own, not a crash."""
        made = self.made(tiny, photos)
        program = made.payload("program")
        broken = Artifact(made.manifest, {**made.payloads, "program": program[: len(program) // 3]})
        try:
            self.target.open(broken)
        except OnchipError:
            return
        raise AssertionError("a truncated program was opened")
