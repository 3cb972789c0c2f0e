"""The doctor on whole logs, with all that programs print around the line that matters."""

from pathlib import Path

import pytest

from onchip.device import doctor
from onchip.toolchains import known

LOGS = Path(__file__).parent / "logs"
HEALTHY = sorted((LOGS / "healthy").glob("*.log"))
# what each bad log tells, its cause first
CAUSES = {
    "coral_compiler": ["edgetpu activations"],
    "coral_dkms": ["linux dkms"],
    "coral_not_there": ["edgetpu no_device"],
    "coral_pcie_interrupts": ["edgetpu interrupts"],
    "coral_usb_gone": ["edgetpu stopped"],
    "coral_usb_rights": ["edgetpu open"],
    "docker_no_device": ["linux device"],
    "frigate_labels": ["frigate labels"],
    "frigate_outputs": ["frigate outputs", "frigate stuck"],
    "frigate_shm": ["frigate shared_memory"],
    "frigate_unknown_key": ["frigate extra_key"],
    "frigate_value": ["frigate config"],
    "frigate_yaml": ["frigate yaml"],
    "hailo_dkms": ["linux headers"],
    "hailo_driver_version": ["hailort driver_version"],
    "hailo_end_nodes": ["hailo end_nodes"],
    "hailo_gstreamer": ["hailort gstreamer"],
    "hailo_in_use": ["hailort in_use"],
    "hailo_killed": ["hailo out_of_memory"],
    "hailo_no_firmware": ["hailort no_firmware"],
    "hailo_page_size": ["hailort desc_page_size"],
    "hailo_resources": ["hailo agent_infeasible"],
    "hailo_wrong_chip": ["hailort hef_arch"],
    "libgl": ["linux libgl"],
    "litert_input": ["litert input"],
    "litert_old": ["litert newer_operator"],
    "onnxruntime_cuda": ["onnxruntime cuda"],
    "onnxruntime_ir_version": ["onnxruntime ir_version"],
    "openvino_no_gpu": ["openvino device"],
    "openvino_unknown_op": ["openvino unknown_op"],
    "pip_no_wheel": ["pip no_wheel"],
    "rknn_dataset": ["rknn dataset", "rknn outlier"],
    "rknn_dynamic": ["rknn dynamic"],
    "rknn_opset": ["rknn opset"],
    "rockchip_adb": ["rknnrt adb"],
    "rockchip_input": ["rknnrt input_size"],
    "rockchip_memory": ["rknnrt memory"],
    "rockchip_no_device": ["rknnrt no_driver"],
    "rockchip_no_library": ["rknnrt no_library"],
    "rockchip_no_server": ["rknnrt server"],
    "rockchip_old_runtime": ["rknnrt model_version"],
    "rockchip_server_version": ["rknnrt server_version"],
    "rockchip_stuck": ["rknnrt driver"],
    "rockchip_wrong_chip": ["rknnrt chip"],
    "vela_option": ["vela option"],
}


def test_every_log_is_told_of_and_every_tool_has_one() -> None:
    assert {p.stem for p in (LOGS / "bad").glob("*.log")} == CAUSES.keys()
    assert len(HEALTHY) >= 10
    told = {cause.split()[0] for causes in CAUSES.values() for cause in causes}
    assert told == set(known.tools())


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_named_first_and_nothing_false_beside_it(name: str) -> None:
    log = (LOGS / "bad" / f"{name}.log").read_bytes()
    found = doctor.explain(log)
    assert sorted(f"{f.tool} {f.code}" for f in found) == sorted(CAUSES[name])
    first = next(f for f in found if f.level == "error")
    assert f"{first.tool} {first.code}" == CAUSES[name][0]
    assert first.said in log.decode() and first.cure
    assert doctor.failure_of(found) is not None


@pytest.mark.parametrize("path", HEALTHY, ids=lambda p: p.stem)
def test_no_error_is_found_where_all_is_well(path: Path) -> None:
    found = doctor.explain(path.read_bytes())
    assert [f for f in found if f.level == "error"] == []
    assert doctor.failure_of(found) is None


def test_a_long_log_of_all_of_them_comes_to_an_end() -> None:
    """Each cause is told once, however often and wherever it is said."""
    logs = b"\n".join(p.read_bytes() for p in sorted(LOGS.glob("*/*.log")))
    once = {(f.tool, f.code) for f in doctor.explain(logs)}
    found = doctor.explain(logs * (doctor.MOST_LOG // 4 // len(logs)))
    assert {(f.tool, f.code) for f in found} == once
    assert len(found) == len(once)
