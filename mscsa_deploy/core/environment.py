"""The machine and software a result was measured on, and a fingerprint of what makes two results comparable.

Nothing here names the machine, its user or a place on its disk, so a record may be published.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import psutil

from mscsa_deploy.core.gpus import Gpu, read_gpus

_CPUINFO = Path("/proc/cpuinfo")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_CGROUP = Path("/sys/fs/cgroup")

_ISA_BY_ARCHITECTURE = {
    "x86_64": (
        "sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
        "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    ),
    # As Linux names them: fp16 arithmetic, int8 dot product, int8 and bf16 matrix multiply, vectors.
    "aarch64": ("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
}  # fmt: skip

ISA_OF_INTEREST = tuple(flag for flags in _ISA_BY_ARCHITECTURE.values() for flag in flags)

PACKAGES = (
    "mscsa-deploy", "numpy", "pillow", "torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime",
    "onnxruntime-gpu", "openvino", "nncf", "tensorrt", "tensorrt-rtx", "safetensors",
)  # fmt: skip

VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Either of these is what a recipe means by ``vnni``: 8-bit products added in 32 bits."""

EXECUTING = ("numpy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
"""Those of `PACKAGES` that take part in a timed inference."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Governor and clock of the first core in MHz, None or empty where the system does not tell."""

    governor: str = ""
    current_mhz: float | None = None
    min_mhz: float | None = None
    max_mhz: float | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """One machine at one moment.

    Args:
        cpu: Model name of the processor.
        arch: ``"x86_64"``, ``"aarch64"``, ...
        isa: Its instruction set extensions of `ISA_OF_INTEREST`, in that order.
        cores_logical: Logical cores of the machine.
        cores_physical: Physical cores; 0 where the system does not tell.
        cores_allowed: Logical cores this process may run on.
        cgroup_cpus: CPU quota of the container in cores, None without one.
        cgroup_memory_bytes: Memory limit of the container, None without one.
        memory_bytes: Physical memory.
        memory_available_bytes: What of it was available.
        clocks: Governor and clocks.
        load_average: Over 1, 5 and 15 minutes.
        gpus: NVIDIA GPUs, empty without the driver.
        system: Operating system with its version, e.g. ``"Debian GNU/Linux 12"``.
        kernel: Its release.
        python: Version.
        packages: Version by distribution name, of `PACKAGES` those that are installed.
    """

    cpu: str
    arch: str
    isa: tuple[str, ...]
    cores_logical: int
    cores_physical: int
    cores_allowed: int
    cgroup_cpus: float | None
    cgroup_memory_bytes: int | None
    memory_bytes: int
    memory_available_bytes: int
    clocks: Clocks
    load_average: tuple[float, float, float]
    gpus: tuple[Gpu, ...] = ()
    system: str = ""
    kernel: str = ""
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for environments whose latencies may be compared."""
        digest = hashlib.sha256(msgspec.json.encode(self.comparable(), order="sorted"))
        return digest.hexdigest()[:16]

    def comparable(self) -> dict[str, object]:
        """The facts that must agree before two latencies are compared.

        Hardware, limits, governor and the versions of what executes; not the moment's load, free memory
        or current clock, nor the kernel's patch level.
        """
        facts = asdict(self)
        moment = ("memory_bytes", "memory_available_bytes", "clocks", "load_average", "kernel")
        return {
            **{name: value for name, value in facts.items() if name not in moment},
            "memory_gib": round(self.memory_bytes / (1 << 30)),
            "governor": self.clocks.governor,
            "max_mhz": self.clocks.max_mhz,
            "gpus": [(gpu.name, gpu.driver, gpu.memory_bytes) for gpu in self.gpus],
            "packages": {name: self.packages[name] for name in EXECUTING if name in self.packages},
        }

    def differences(self, other: Environment) -> dict[str, tuple[object, object]]:
        """The comparable facts in which `self` and `other` differ, as pairs."""
        mine, theirs = self.comparable(), other.comparable()
        return {name: (value, theirs[name]) for name, value in mine.items() if value != theirs[name]}


def read_environment() -> Environment:
    """The environment of this process, read now; takes some milliseconds, or more with a GPU."""
    memory = psutil.virtual_memory()
    return Environment(
        cpu=_cpu_model(),
        arch=architecture(),
        isa=isa_flags(),
        cores_logical=psutil.cpu_count() or 1,
        cores_physical=psutil.cpu_count(logical=False) or 0,
        cores_allowed=_cores_allowed(),
        cgroup_cpus=_cgroup_cpus(),
        cgroup_memory_bytes=_cgroup_memory(),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        clocks=read_clocks(),
        load_average=_load_average(),
        gpus=read_gpus(),
        system=_system(),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=package_versions(PACKAGES),
    )


def has_isa(wanted: str, flags: Collection[str]) -> bool:
    """Whether `flags` holds the extension `wanted`, or one of the family ``vnni``."""
    return wanted in flags or (wanted == "vnni" and not VNNI.isdisjoint(flags))


def isa_flags() -> tuple[str, ...]:
    """The processor's extensions of `ISA_OF_INTEREST`; empty where the system does not list them."""
    present = _listed_isa() or ()
    return tuple(flag for flag in ISA_OF_INTEREST if flag in present)


def lacking_isa(wanted: Iterable[str]) -> tuple[str, ...]:
    """Those of the extensions `wanted` that this processor certainly lacks."""
    return _without_isa(wanted)[0]


def isa_doubts(subject: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """What to say where `subject` requires extensions that this processor lacks, or may lack; empty if it has all."""
    lacking, untold = _without_isa(wanted)
    said = []
    if lacking:
        said.append(f"{subject} requires {', '.join(lacking)}, which this processor lacks: it may be slow or inexact")
    if untold:
        said.append(
            f"{subject} requires {', '.join(untold)}; this system does not tell whether the processor has it: "
            "without, it may be slow or inexact"
        )
    return tuple(said)


def _without_isa(wanted: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of `wanted` that this processor lacks, and those that the system does not tell about.

    Windows and macOS do not list what a processor has; it lacks what only another architecture knows.
    """
    names = tuple(flag for flag in wanted if flag)
    present = isa_flags() if names else ()
    if present or not names or _listed_isa() is not None:
        return tuple(flag for flag in names if not has_isa(flag, present)), ()
    foreign = {flag for arch, flags in _ISA_BY_ARCHITECTURE.items() if arch != architecture() for flag in flags}
    lacking = tuple(flag for flag in names if has_isa(flag, foreign))
    return lacking, tuple(flag for flag in names if flag not in lacking)


def usable_cores() -> int:
    """Logical cores that this process can keep busy: those it may run on, within the container's quota."""
    allowed, quota = _cores_allowed(), _cgroup_cpus()
    return max(allowed if quota is None else min(allowed, math.ceil(quota)), 1)


def architecture() -> str:
    """Of the processor, as Linux names it: ``"x86_64"``, ``"aarch64"``, ..."""
    return {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}.get(platform.machine(), platform.machine())


def package_version(*names: str) -> str:
    """Version of the first installed distribution of `names`, without importing it; empty if none is."""
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the installed distributions of `names`."""
    return {name: version for name in names if (version := package_version(name))}


def read_clocks() -> Clocks:
    """Governor and clocks of the first core, read now."""
    frequency = None
    with contextlib.suppress(AttributeError, NotImplementedError, OSError):  # boards without cpufreq
        frequency = psutil.cpu_freq()
    return Clocks(
        governor="".join(_lines(_CPUFREQ / "scaling_governor")).strip(),
        current_mhz=frequency.current if frequency and frequency.current else None,
        min_mhz=frequency.min if frequency and frequency.min else None,
        max_mhz=frequency.max if frequency and frequency.max else None,
    )


def _listed_isa() -> set[str] | None:
    """Every extension that the system lists; None where it lists none at all."""
    for line in _lines(_CPUINFO):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return None


def _cpu_model() -> str:
    names = ("model name", "Model", "Hardware")
    facts = dict(_split(line) for line in _lines(_CPUINFO) if ":" in line)
    for name in names:
        if facts.get(name):
            return facts[name]
    if "CPU part" in facts:
        return f"ARM implementer {facts.get('CPU implementer', '?')} part {facts['CPU part']}"
    return platform.processor() or architecture()


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _cores_allowed() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def _cgroup_cpus() -> float | None:
    quota, _, period = "".join(_lines(_CGROUP / "cpu.max")).strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    legacy = "".join(_lines(_CGROUP / "cpu/cpu.cfs_quota_us")).strip()
    period = "".join(_lines(_CGROUP / "cpu/cpu.cfs_period_us")).strip()
    return int(legacy) / int(period) if legacy.isdigit() and period.isdigit() else None


def _cgroup_memory() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = "".join(_lines(_CGROUP / name)).strip()
        # Version 1 spells "no limit" as a number near 2**63.
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def _load_average() -> tuple[float, float, float]:
    one, five, fifteen = psutil.getloadavg()
    return one, five, fifteen


def _system() -> str:
    with contextlib.suppress(OSError):
        facts = platform.freedesktop_os_release()
        return f"{facts.get('NAME', 'Linux')} {facts.get('VERSION_ID', '')}".strip()
    return f"{platform.system()} {platform.version()}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
