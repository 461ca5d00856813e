"""`mscsa-deploy doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.doctor import DeviceFacts, Diagnosis, RuntimeFacts


@click.command("doctor")
@common_options
def command(terminal: Terminal) -> None:
    """Tell what this machine is, which runtimes it can run, and which device profile fits it."""
    from mscsa_deploy.workflow.doctor import diagnose

    with terminal.progress() as progress:
        found = diagnose(progress)
    terminal.document(found)
    terminal.show(_device_table(found.device), _runtime_table(found.runtimes), *_lines(found))


def _device_table(device: DeviceFacts) -> Table:
    from mscsa_deploy.cli.tables import facts

    physical = f", {device.cores_physical} physical" if device.cores_physical else ""
    allowed = f", {device.cores_allowed} allowed" if device.cores_allowed != device.cores_logical else ""
    limits = [
        f"{device.container.cpus:g} cores" if device.container.cpus is not None else "",
        f"{_gib(device.container.memory_bytes)} memory" if device.container.memory_bytes is not None else "",
    ]
    clock = f"governor {device.governor or 'unknown'}"
    clock += f", up to {device.max_mhz:.0f} MHz" if device.max_mhz else ""
    rows = {
        "processor": f"{device.cpu} ({device.arch})",
        "instructions": " ".join(device.isa) or "not told by the system",
        "cores": f"{device.cores_logical} logical{physical}{allowed}; {clock}",
        "memory": f"{_gib(device.memory_bytes)}, {_gib(device.memory_available_bytes)} free",
        "container limits": ", ".join(filter(None, limits)) or "none",
        "GPU": "; ".join(
            f"{gpu.name}, {_gib(gpu.memory_bytes)}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
            for gpu in device.gpus
        )
        or "none found (no NVIDIA driver)",
        "system": f"{device.system}, kernel {device.kernel}, Python {device.python}",
    }
    return facts("Device", rows)


def _runtime_table(runtimes: dict[str, RuntimeFacts]) -> Table:
    from rich.markup import escape

    from mscsa_deploy.cli.tables import results

    text = ("runtime", "", "version", "devices", "precisions")
    table = results("Runtimes", fold=(), text=text)
    table.add_column("what keeps it, and what to do", overflow="fold")
    for name, facts in runtimes.items():
        mark = "[green]✓[/]" if facts.available else "[red]✗[/]"
        remark = facts.reason if facts.available else "; ".join(filter(None, (facts.reason, facts.how_to_install)))
        table.add_row(name, mark, facts.version, " ".join(facts.devices), " ".join(facts.precisions), escape(remark))
    return table


def _lines(found: Diagnosis) -> list[str]:
    from rich.markup import escape

    profile = found.profile
    if profile.name:
        lines = [
            f"Device profile: [bold]{profile.name}[/] ({escape(profile.why)})",
            f"Used by default: {', '.join(profile.runtimes)}; {profile.threads} thread(s) per session",
        ]
    else:
        lines = [f"Device profile: none ({escape(profile.why)})"]
    return [*lines, *(f"[yellow]note:[/] {escape(remark)}" for remark in found.remarks)]


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / (1 << 30):.1f} GiB"
