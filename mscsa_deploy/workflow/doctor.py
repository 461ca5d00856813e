"""`doctor`: what this machine is, what its runtimes can do, and which device profile fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy import __version__
from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    from mscsa_deploy.core.environment import Environment


class GpuFacts(Record, frozen=True, kw_only=True):
    """One NVIDIA GPU."""

    name: str
    memory_bytes: int
    driver: str
    compute_capability: str


class ContainerLimits(Record, frozen=True, kw_only=True):
    """What a container (cgroup) leaves to this process; None where it does not limit."""

    cpus: float | None
    memory_bytes: int | None


class DeviceFacts(Record, frozen=True, kw_only=True):
    """The machine.

    Args:
        cpu: Model of the processor.
        arch: ``"x86_64"``, ``"aarch64"``, ...
        isa: Its instruction set extensions that matter for inference.
        cores_logical: Logical cores.
        cores_physical: Physical cores; 0 where the system does not tell.
        cores_allowed: Logical cores this process may run on.
        governor: Of the first core's clock; empty where the system does not tell.
        max_mhz: Of the first core's clock; None where the system does not tell.
        memory_bytes: Physical memory.
        memory_available_bytes: What of it is free.
        load_average: Over 1, 5 and 15 minutes.
        container: Limits of the container.
        gpus: NVIDIA GPUs.
        system: Operating system.
        kernel: Its release.
        python: Version.
    """

    cpu: str
    arch: str
    isa: tuple[str, ...]
    cores_logical: int
    cores_physical: int
    cores_allowed: int
    governor: str
    max_mhz: float | None
    memory_bytes: int
    memory_available_bytes: int
    load_average: tuple[float, float, float]
    container: ContainerLimits
    gpus: tuple[GpuFacts, ...]
    system: str
    kernel: str
    python: str


class RuntimeFacts(Record, frozen=True, kw_only=True):
    """What one runtime can do here."""

    available: bool
    version: str
    reason: str
    how_to_install: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]


class ProfileFacts(Record, frozen=True, kw_only=True):
    """The device profile that fits, empty `name` if none does, and why."""

    name: str
    why: str
    runtimes: tuple[str, ...] = ()
    threads: int | None = None


class Diagnosis(Record, frozen=True, kw_only=True):
    """Everything `doctor` tells.

    Args:
        version: Of this tool.
        device: The machine.
        runtimes: By name.
        profile: What `deploy` and `benchmark` would use without ``--device``.
        remarks: What makes latencies unsteady or keeps a runtime from what it could do.
    """

    version: str = __version__
    device: DeviceFacts
    runtimes: dict[str, RuntimeFacts]
    profile: ProfileFacts
    remarks: tuple[str, ...] = ()


def diagnose(progress: Progress = silent) -> Diagnosis:
    """What this machine is and which runtimes it can run; takes seconds, because each runtime is started."""
    from mscsa_deploy.core.environment import read_environment

    environment = read_environment()
    return Diagnosis(
        device=_device(environment),
        runtimes=_runtimes(progress),
        profile=_profile(environment),
        remarks=remarks(environment),
    )


def _device(environment: Environment) -> DeviceFacts:
    return DeviceFacts(
        cpu=environment.cpu,
        arch=environment.arch,
        isa=environment.isa,
        cores_logical=environment.cores_logical,
        cores_physical=environment.cores_physical,
        cores_allowed=environment.cores_allowed,
        governor=environment.clocks.governor,
        max_mhz=environment.clocks.max_mhz,
        memory_bytes=environment.memory_bytes,
        memory_available_bytes=environment.memory_available_bytes,
        load_average=environment.load_average,
        container=ContainerLimits(cpus=environment.cgroup_cpus, memory_bytes=environment.cgroup_memory_bytes),
        gpus=tuple(
            GpuFacts(
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                driver=gpu.driver,
                compute_capability=gpu.compute_capability,
            )
            for gpu in environment.gpus
        ),
        system=environment.system,
        kernel=environment.kernel,
        python=environment.python,
    )


def _runtimes(progress: Progress) -> dict[str, RuntimeFacts]:
    from mscsa_deploy.runtimes import OFFERED, RUNTIMES

    found = {}
    for done, name in enumerate(OFFERED):
        progress(done, len(OFFERED), "starting runtimes")
        can = RUNTIMES.load(name)().probe()
        found[name] = RuntimeFacts(
            available=can.available,
            version=can.version,
            reason=can.reason,
            how_to_install=can.how_to_install,
            devices=can.devices,
            precisions=can.precisions,
        )
    return found


def _profile(environment: Environment) -> ProfileFacts:
    from mscsa_deploy.runtimes.profile import pick_profile

    try:
        profile, why = pick_profile(environment)
    except UnsupportedError as error:
        return ProfileFacts(name="", why=str(error))
    return ProfileFacts(name=profile.name, why=why, runtimes=profile.default_runtimes, threads=profile.threads)


def remarks(environment: Environment) -> tuple[str, ...]:
    """What in `environment` makes latencies unsteady, one sentence each."""
    found = []
    if environment.clocks.governor not in ("", "performance"):
        found.append(
            f"The clock governor is '{environment.clocks.governor}', under which latencies vary; "
            "'sudo cpupower frequency-set -g performance' steadies them."
        )
    allowed = environment.cgroup_cpus or float(environment.cores_allowed)
    if environment.load_average[0] > 0.5 * allowed:
        found.append(
            f"Other work is running (load {environment.load_average[0]:.1f} on {allowed:g} cores), "
            "so latencies measured now will be too high."
        )
    if environment.cgroup_cpus is not None and environment.cgroup_cpus != int(environment.cgroup_cpus):
        found.append(f"The container may use {environment.cgroup_cpus:g} cores, so a session is paused now and then.")
    return tuple(found)
