"""`doctor`: the machine and its runtimes, for people and for scripts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mscsa_deploy.core import environment
from mscsa_deploy.core.environment import Clocks, read_environment
from mscsa_deploy.core.gpus import Gpu
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import Capabilities
from mscsa_deploy.workflow.doctor import remarks

KEYS = {"available", "version", "reason", "how_to_install", "devices", "precisions"}


class Runtime:
    """A runtime with what it can do written down, so that no library is started."""

    def __init__(self, can):
        self.can = can

    def __call__(self):
        return self

    def probe(self):
        return self.can


READY = Capabilities(True, "", "pip install it", "1.2", ("cpu",), ("int8", "fp32"))
MISSING = Capabilities(False, "not installed", "pip install 'mscsa-deploy[openvino]'", "", (), ())


@pytest.fixture
def machine(monkeypatch):
    """A known machine with one runtime missing; returns a function that changes the machine."""
    known = replace(
        read_environment(),
        cpu="Test CPU",
        arch="x86_64",
        isa=("avx2", "avx512_vnni"),
        cgroup_cpus=None,
        cgroup_memory_bytes=None,
        cores_allowed=4,
        load_average=(0.0, 0.0, 0.0),
        clocks=Clocks("performance", 3000.0, 1000.0, 3500.0),
        gpus=(),
    )

    def become(**changes):
        monkeypatch.setattr(environment, "read_environment", lambda: replace(known, **changes))
        return replace(known, **changes)

    monkeypatch.setattr(type(RUNTIMES), "load", lambda _, name: Runtime(MISSING if name == "openvino" else READY))
    become()
    return become


def test_json_has_the_device_every_runtime_and_the_profile(cli, machine):
    document = cli("doctor", "--json", "-q").json
    assert document["device"]["cpu"] == "Test CPU"
    assert {"isa", "cores_logical", "governor", "memory_bytes", "gpus", "container"} <= set(document["device"])
    assert set(document["runtimes"]) == set(RUNTIMES) - {"fake"}
    assert all(set(facts) == KEYS for facts in document["runtimes"].values())
    assert document["runtimes"]["openvino"]["how_to_install"] == MISSING.how_to_install
    assert document["profile"]["name"] == "x86_avx512_vnni"
    assert "avx512_vnni" in document["profile"]["why"]


def test_people_see_what_to_install_in_full(cli, machine):
    # Square brackets are markup to the table's library, and must not be swallowed.
    outcome = cli("doctor")
    assert outcome.code == 0
    assert "pip install 'mscsa-deploy[openvino]'" in outcome.out
    assert "Test CPU" in outcome.out
    assert "x86_avx512_vnni" in outcome.out


def test_a_gpu_is_named_with_its_memory_and_capability(cli, machine):
    machine(gpus=(Gpu("RTX 4090", 24 << 30, "570.1", "8.9"),))
    assert "RTX 4090, 24.0 GiB, compute capability 8.9, driver 570.1" in cli("doctor").out
    assert cli("doctor", "--json").json["device"]["gpus"][0]["compute_capability"] == "8.9"


def test_an_unknown_machine_has_no_profile_and_a_reason(cli, machine):
    machine(arch="riscv64", isa=())
    outcome = cli("doctor", "--json", "-q")
    assert outcome.code == 0
    assert outcome.json["profile"]["name"] == ""
    assert "riscv64" in outcome.json["profile"]["why"]
    assert "Device profile: none" in cli("doctor").out


def test_container_limits_are_told(cli, machine):
    machine(cgroup_cpus=1.5, cgroup_memory_bytes=2 << 30)
    outcome = cli("doctor")
    assert "1.5 cores, 2.0 GiB memory" in outcome.out
    assert "paused" in outcome.out


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"clocks": Clocks("powersave")}, "governor", id="governor"),
        pytest.param({"load_average": (3.0, 0.0, 0.0)}, "load 3.0 on 4 cores", id="load"),
        pytest.param({"cgroup_cpus": 0.5}, "0.5 cores", id="quota"),
    ],
)
def test_remarks_name_what_makes_latency_unsteady(machine, changes, word):
    (remark,) = remarks(machine(**changes))
    assert word in remark


def test_a_quiet_machine_has_no_remarks(machine):
    assert remarks(machine()) == ()


def test_quiet_keeps_progress_to_itself(cli, machine):
    assert "starting runtimes" in cli("doctor").err
    assert cli("doctor", "-q").err == ""
