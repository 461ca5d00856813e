"""The NVIDIA GPUs of the machine, as its driver tells them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as ``nvidia-smi`` tells it; clocks in MHz, power in watts, None where not told."""

    name: str
    memory_bytes: int
    driver: str
    compute_capability: str
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    power_limit_w: float | None = None


def read_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = "name,memory.total,driver_version,compute_cap,clocks.sm,clocks.max.sm,power.limit"
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments, program found on the path
            [tool, f"--query-gpu={asked}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(answer)


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """The GPUs of a ``nvidia-smi`` answer: one CSV line each, in the order `read_gpus` asks for."""
    gpus = []
    for line in answer.strip().splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) != 7:
            continue
        name, memory, driver, capability, clock, clock_max, power = fields
        gpus.append(
            Gpu(
                name=name,
                memory_bytes=int(_number(memory) or 0) << 20,
                driver=driver,
                compute_capability=capability,
                clock_sm_mhz=_whole(clock),
                clock_sm_max_mhz=_whole(clock_max),
                power_limit_w=_number(power),
            )
        )
    return tuple(gpus)


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def _whole(text: str) -> int | None:
    number = _number(text)
    return None if number is None else round(number)
