"""What there is on this machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PhysicalDevice:
    """A processor."""

    name: str
    device_type: str


def list_physical_devices(device_type: str | None = None) -> list[PhysicalDevice]:
    """Return the processors of a kind; GPUs where the process sees one."""
    from hailo_model_optimization import gpu

    found = [PhysicalDevice("/physical_device:CPU:0", "CPU")]
    if gpu():
        found.append(PhysicalDevice("/physical_device:GPU:0", "GPU"))
    return [d for d in found if device_type in (None, d.device_type)]
