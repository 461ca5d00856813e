"""Device profiles: what to run, and how, on one class of machine; read from ``runtimes/*.toml``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.core.config import Config, read_toml
from mscsa_deploy.core.shipped import shipped_file, shipped_names
from mscsa_deploy.errors import UnsupportedError, UserError, unknown_name
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import SessionSettings

if TYPE_CHECKING:
    from mscsa_deploy.core.environment import Environment

Affinity = Literal["none", "first", "big"]
GPU_WEIGHT = 100
_CPUS = Path("/sys/devices/system/cpu")


class Match(Config, frozen=True, kw_only=True):
    """When a machine is of this class: every condition that is given must hold.

    Args:
        arch: The processor architecture, as `Environment.arch` spells it.
        isa_all: Extensions it must have, of `core.environment.ISA_OF_INTEREST`.
        isa_any: Extensions of which it must have one.
        gpu_compute_capability: Capabilities of which one GPU must have one, e.g. ``"8.9"``.
    """

    arch: str = ""
    isa_all: tuple[str, ...] = ()
    isa_any: tuple[str, ...] = ()
    gpu_compute_capability: tuple[str, ...] = ()


class RuntimeProfile(Config, frozen=True, kw_only=True):
    """How one runtime is used on this class of machine.

    Args:
        precisions: What to run by default, as far as the machine can execute it.
        device: ``"cpu"`` or ``"cuda"``.
        options: `SessionSettings.options` for every session.
        options_by_precision: Options that one precision has beside them.
        compute_capabilities: What TensorRT engines are built for, e.g. ``"86"``.
    """

    precisions: tuple[str, ...] = ("fp32", "int8")
    device: str = "cpu"
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    options_by_precision: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()


class DeviceProfile(Config, frozen=True, kw_only=True):
    """One class of machines.

    Args:
        name: The file's bare name; not a key of the file.
        title: What the class is, in words.
        match: When a machine belongs to it.
        threads: Compute threads of a session unless asked otherwise.
        affinity: Where the process may run: ``"none"`` leaves it to the system, ``"first"`` pins it to the
            first cores it may use, ``"big"`` to the cores with the highest capacity (big.LITTLE).
        default_runtimes: What runs when nobody names a runtime, the preferred first.
        runtimes: How each runtime is used, by its name in `RUNTIMES`.
    """

    name: str = ""
    title: str
    match: Match
    threads: int = 1
    affinity: Affinity = "none"
    default_runtimes: tuple[str, ...]
    runtimes: dict[str, RuntimeProfile]

    def settings(self, runtime: str, precision: str, *, threads: int | None = None) -> SessionSettings:
        """Session settings for `runtime` in `precision`; `threads` overrides the profile's."""
        entry = self.runtimes.get(runtime, RuntimeProfile())
        return SessionSettings(
            threads=threads or self.threads,
            precision=precision,
            device=entry.device,
            options={**entry.options, **entry.options_by_precision.get(precision, {})},
        )

    def cores(self, threads: int) -> tuple[int, ...]:
        """The logical cores a process with `threads` is to be pinned to; empty to leave it unpinned."""
        if self.affinity == "none" or sys.platform != "linux":
            return ()
        allowed = sorted(os.sched_getaffinity(0))
        if self.affinity == "big":
            allowed.sort(key=lambda core: (-_capacity(core), core))
        return tuple(sorted(allowed[:threads]))


def profile_names() -> tuple[str, ...]:
    """Names of the shipped profiles, sorted."""
    return shipped_names("runtimes")


def read_profile(name: str) -> DeviceProfile:
    """The profile `name`: a shipped one, or the path of a TOML file.

    Raises:
        UserError: No such profile, or the file has a wrong or unknown key, runtime, or option.
    """
    given = Path(name)
    path = given if given.suffix == ".toml" and given.is_file() else shipped_file("runtimes", name)
    profile = read_toml(path, DeviceProfile)
    if profile.name:
        raise UserError(f"'{path}' sets 'name'", hint="a profile is called as its file; remove the key")
    for runtime in (*profile.runtimes, *profile.default_runtimes):
        if runtime not in RUNTIMES:
            raise unknown_name(f"runtime in '{path.name}'", runtime, RUNTIMES)
    if profile.threads < 1:
        raise UserError(f"'{path}': threads is {profile.threads}, expected at least 1")
    return msgspec.structs.replace(profile, name=path.stem)


def pick_profile(environment: Environment) -> tuple[DeviceProfile, str]:
    """The shipped profile that fits `environment` most specifically, and why, in one sentence.

    Raises:
        UnsupportedError: None fits, so one has to be named.
    """
    fits = [
        (profile, reasons)
        for profile in map(read_profile, profile_names())
        if (reasons := matching(profile.match, environment))
    ]
    if not fits:
        raise UnsupportedError(
            f"no device profile fits this machine ({environment.arch}, {environment.cpu})",
            hint=f"name one with --device: {', '.join(profile_names())}",
        )
    profile, reasons = max(fits, key=lambda fit: _weight(fit[0].match))
    return profile, f"{profile.title}: this machine has {', '.join(reasons)}"


def matching(match: Match, environment: Environment) -> tuple[str, ...]:
    """What makes `environment` fit `match`, in words; empty if it does not fit."""
    gpus = {gpu.compute_capability: gpu.name for gpu in environment.gpus}
    wanted = [capability for capability in match.gpu_compute_capability if capability in gpus]
    either = [flag for flag in match.isa_any if flag in environment.isa]
    fits = (
        match.arch in ("", environment.arch)
        and set(match.isa_all) <= set(environment.isa)
        and (bool(either) or not match.isa_any)
        and (bool(wanted) or not match.gpu_compute_capability)
    )
    if not fits:
        return ()
    return (
        f"architecture {environment.arch}",
        *(f"{flag}" for flag in (*match.isa_all, *either)),
        *(f"{gpus[capability]} (compute capability {capability})" for capability in wanted),
    )


def _weight(match: Match) -> int:
    conditions = bool(match.arch) + len(match.isa_all) + bool(match.isa_any)
    return conditions + GPU_WEIGHT * bool(match.gpu_compute_capability)


def _capacity(core: int) -> int:
    """Relative speed of a core as the kernel tells it; 0 where it does not."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return int((_CPUS / f"cpu{core}" / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return 0
