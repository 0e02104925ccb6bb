"""Where a model runs, in which precision and with which kernels: what goes together."""

from __future__ import annotations

DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices that MACE knows: processor, NVIDIA (or AMD) GPU, Apple GPU, Intel GPU."""
DTYPES = ("float64", "float32")


def device_problem(device: str, dtype: str, enable_cueq: object = False) -> str | None:
    """Return what is wrong with a device, a precision and the use of cuEquivariance, or None.

    Args:
        device: where the model runs.
        dtype: its precision.
        enable_cueq: whether to use the kernels of cuEquivariance.
    """
    if device not in DEVICES:
        return f"'device' must be one of {list(DEVICES)}, got {device!r}"
    if dtype not in DTYPES:
        return f"'dtype' must be one of {list(DTYPES)}, got {dtype!r}"
    if device == "mps" and dtype == "float64":
        return "GPUs of Apple ('device' mps) know no float64: use float32, or the device cpu"
    if not isinstance(enable_cueq, bool):
        return f"'enable_cueq' must be true or false, got {enable_cueq!r}"
    if enable_cueq and device != "cuda":
        return (
            f"'enable_cueq' needs 'device' cuda, got {device!r}: the kernels of cuEquivariance are for NVIDIA GPUs; "
            "leave it out, or set the device"
        )
    return None
