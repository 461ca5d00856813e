from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mscsa_deploy.core import environment as module
from mscsa_deploy.core.environment import (
    Clocks,
    isa_doubts,
    isa_flags,
    lacking_isa,
    package_version,
    read_environment,
    usable_cores,
)
from mscsa_deploy.core.gpus import Gpu, parse_gpus


@pytest.fixture(scope="module")
def here():
    return read_environment()


def test_it_describes_this_machine(here):
    assert here.cpu
    assert here.arch
    assert 1 <= here.cores_allowed <= here.cores_logical
    assert 0 < here.memory_available_bytes <= here.memory_bytes
    assert here.python == platform.python_version()
    assert here.packages["numpy"]


def test_nothing_in_it_names_the_machine_the_user_or_a_place(here):
    text = json.dumps(msgspec.to_builtins(here))
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    # Names shorter than this may be part of other words.
    for name in (platform.node(), getpass.getuser()):
        assert len(name) < 5 or name not in text


def test_it_survives_json(here):
    again = msgspec.json.decode(msgspec.json.encode(here), type=type(here))
    assert again == here
    assert again.fingerprint() == here.fingerprint()


def test_the_moment_does_not_change_the_fingerprint(here):
    later = replace(
        here,
        load_average=(9.0, 9.0, 9.0),
        memory_available_bytes=1,
        kernel="another",
        clocks=replace(here.clocks, current_mhz=1.0),
        packages={**here.packages, "pillow": "0", "mscsa-deploy": "99"},
    )
    assert later.fingerprint() == here.fingerprint()
    assert here.differences(later) == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cpu": "another CPU"}, "cpu"),
        ({"isa": ()}, "isa"),
        ({"cores_allowed": 999}, "cores_allowed"),
        ({"cgroup_cpus": 0.5}, "cgroup_cpus"),
        ({"memory_bytes": 1 << 50}, "memory_gib"),
        ({"clocks": Clocks(governor="powersave-or-other")}, "governor"),
        ({"packages": {"openvino": "1"}}, "packages"),
        ({"gpus": (Gpu("GPU", 1, "1", "8.9"),)}, "gpus"),
        ({"python": "2.7"}, "python"),
    ],
)
def test_what_matters_changes_the_fingerprint(here, change, field):
    other = replace(here, **change)
    assert other.fingerprint() != here.fingerprint()
    assert field in here.differences(other)


def test_gpus_are_read_from_nvidia_smi():
    answer = (
        "NVIDIA GeForce RTX 4090, 24564, 580.65.06, 8.9, 2520, 3105, 450.00\n"
        "Orin (nvgpu), [N/A], 540.4.0, 8.7, [N/A], [N/A], [N/A]\n"
        "something else\n"
    )
    ada, orin = parse_gpus(answer)
    assert ada == Gpu("NVIDIA GeForce RTX 4090", 24564 << 20, "580.65.06", "8.9", 2520, 3105, 450.0)
    assert (orin.memory_bytes, orin.clock_sm_mhz, orin.compute_capability) == (0, None, "8.7")


def test_arm_features_are_read_in_the_declared_order(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimddp asimd fphp atomics\nCPU part\t: 0xd0b\n")
    monkeypatch.setattr(module, "_CPUINFO", cpuinfo)
    assert isa_flags() == ("asimd", "fphp", "asimddp")
    assert "0xd0b" in module._cpu_model()


@pytest.mark.parametrize(
    ("listed", "machine", "doubtful"),
    [
        ("flags\t\t: sse4_1 avx2\n", "x86_64", (("vnni", "asimddp"), ())),
        ("flags\t\t: avx2 avx512_vnni\n", "x86_64", (("asimddp",), ())),
        ("flags\t\t: fpu\n", "x86_64", (("vnni", "asimddp"), ())),
        ("", "AMD64", (("asimddp",), ("vnni",))),
        ("", "arm64", (("vnni",), ("asimddp",))),
        ("", "ARM64", (("vnni",), ("asimddp",))),
    ],
    ids=["without", "with", "old", "Windows", "macOS", "Windows on ARM"],
)
def test_an_extension_that_the_system_does_not_list_is_not_lacking(tmp_path, monkeypatch, listed, machine, doubtful):
    lacking, untold = doubtful
    (tmp_path / "cpuinfo").write_text(listed)
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    assert lacking_isa(("vnni", "", "asimddp")) == lacking
    said = [f"it requires {', '.join(lacking)}, which this processor lacks: it may be slow or inexact"]
    if untold:
        said.append(
            f"it requires {', '.join(untold)}; this system does not tell whether the processor has it: "
            "without, it may be slow or inexact"
        )
    assert isa_doubts("it", ("vnni", "", "asimddp")) == tuple(said)
    assert isa_doubts("it", ()) == ()


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.25, 1), (2, 16.0, 2)]
)
def test_usable_cores_are_those_allowed_within_the_quota(monkeypatch, allowed, quota, cores):
    monkeypatch.setattr(module, "_cores_allowed", lambda: allowed)
    monkeypatch.setattr(module, "_cgroup_cpus", lambda: quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "1048576\n"}, 1.5, 1 << 20),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({}, None, None),
    ],
    ids=["v2", "v2 unlimited", "v1", "v1 unlimited", "none"],
)
def test_container_limits_are_read(tmp_path, monkeypatch, files, cpus, memory):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert module._cgroup_cpus() == cpus
    assert module._cgroup_memory() == memory


def test_the_first_installed_distribution_counts():
    assert package_version("no-such-distribution", "numpy") == package_version("numpy") != ""
    assert package_version("no-such-distribution") == ""


def test_reading_it_imports_no_library_it_reports_on():
    code = (
        "from mscsa_deploy.core.environment import read_environment; read_environment(); import sys;"
        "print({'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'PIL'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("wanted", "flags", "there"),
    [
        ("vnni", {"avx512_vnni"}, True),
        ("vnni", {"avx_vnni"}, True),
        ("vnni", {"avx2"}, False),
        ("avx512_vnni", {"avx_vnni"}, False),
        ("asimddp", {"asimddp"}, True),
    ],
)
def test_vnni_is_a_family_and_everything_else_a_flag(wanted, flags, there):
    from mscsa_deploy.core.environment import has_isa

    assert has_isa(wanted, flags) is there
