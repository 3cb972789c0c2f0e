"""What Hailo's compiler says in passing is read, and what is worse than asked is an error."""

import pytest

from onchip.targets.hailo.guard import Asked, Done, read, verdicts

NO_GPU = (
    "[warning] Reducing optimization level to 0 (the accuracy won't be optimized and compression "
    "won't be used) because there's no available GPU\n"
    "[warning] Running model optimization with zero level of optimization is not recommended for "
    "production use and might lead to suboptimal accuracy results\n"
)
FEW = (
    "[warning] Reducing optimization level to 0 (the accuracy won't be optimized and compression "
    "won't be used) because there's less data than the recommended amount (1024), and there's no "
    "available GPU\n"
)
CALIBRATION = "[info] Using dataset with 64 entries for calibration\n"
SINGLE = "[info] Using Single-context flow\n[info] Successful Compilation (compilation time: 14s)\n"
MULTI = (
    "[info] Single context flow failed: Recoverable single context error\n"
    "[info] Using Multi-context flow\n"
    "[info] Found valid partition to 3 contexts\n"
    "[info] Successful Compilation (compilation time: 39s)\n"
)
SNR = (
    "[info] Output layers signal-to-noise ratio (SNR): measures the quantization noise\n"
    "[info] \tyolov8n/output_layer1 SNR:\t21.4 dB\n"
    "[info] \tyolov8n/output_layer2 SNR:\t0.0004649 dB\n"
    "[info] \tyolov8n/output_layer3 SNR:\t7.25 dB\n"
)


def codes(asked: Asked, log: str) -> dict[str, str]:
    return {v.code: v.level for v in verdicts(asked, read(log))}


def test_a_log_is_read() -> None:
    log = NO_GPU + CALIBRATION + MULTI + SNR
    assert read(log) == Done(
        level=0,
        calibration=64,
        contexts=3,
        snr={"output_layer1": 21.4, "output_layer2": 0.0004649, "output_layer3": 7.25},
    )
    assert read("") == Done()


def test_what_was_asked_for_is_no_error() -> None:
    assert codes(Asked(level=0, calibration=64), NO_GPU + CALIBRATION + SINGLE) == {}


@pytest.mark.parametrize("log", [NO_GPU, FEW])
def test_a_reduced_level(log: str) -> None:
    assert codes(Asked(level=2, calibration=64), log + CALIBRATION) == {"level_reduced": "error"}


def test_fewer_photos_than_given() -> None:
    found = verdicts(Asked(level=0, calibration=1024), read(CALIBRATION))
    assert [(v.code, v.level) for v in found] == [("calibration_smaller", "error")]
    assert "64 photos, not on the 1024" in found[0].message


def test_compression_and_packed_weights() -> None:
    dropped = (
        "[warning] Reducing compression level to 0 because requested optimization level equal or "
        "less than 1\n"
    )
    assert codes(Asked(level=1, calibration=1, compression=2), dropped) == {
        "compression_dropped": "error"
    }
    packed = "[info] Assigning 4bit weights to layer yolov8n/conv53 with 294.91k parameters\n"
    assert codes(Asked(level=2, calibration=1), packed) == {"weights_packed": "error"}
    assert codes(Asked(level=2, calibration=1, compression=1), packed) == {}


def test_demoted_outputs() -> None:
    log = "[warning] Reducing output bits of yolov8n/conv42 by 2.0 bits (More than half)\n"
    assert codes(Asked(level=0, calibration=1), log) == {"output_demoted": "warning"}
    wide = Asked(level=0, calibration=1, wide=("conv42",))
    assert codes(wide, log) == {"output_demoted": "error"}
    ends = "[warning] Reducing output bits of yolov8n/output_layer2 by 8.0 bits (More than half)\n"
    assert codes(wide, ends) == {"output_demoted": "warning"}
    asked = Asked(level=0, calibration=1, wide_ends=True)
    assert codes(asked, ends) == {"output_demoted": "error"}


def test_several_contexts() -> None:
    assert codes(Asked(level=0, calibration=1), MULTI) == {"multi_context": "warning"}
    asked = Asked(level=0, calibration=1, one_context=True)
    assert codes(asked, MULTI) == {"multi_context": "error"}
    assert codes(asked, SINGLE) == {}


def test_outputs_of_noise() -> None:
    found = verdicts(Asked(level=0, calibration=1), read(SNR))
    assert [(v.code, v.level) for v in found] == [("snr_none", "error"), ("snr_low", "warning")]
    assert "output_layer2 0.000465 dB" in found[0].message
    assert "output_layer3 7.25 dB" in found[1].message
