from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

from mscsa_deploy.core.environment import ISA_OF_INTEREST, Clocks, Environment
from mscsa_deploy.core.gpus import Gpu
from mscsa_deploy.core.shipped import shipped_folder
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes import profile as module
from mscsa_deploy.runtimes.profile import pick_profile, profile_names, read_profile
from mscsa_deploy.runtimes.protocol import PRECISIONS


def machine(arch="x86_64", isa=(), gpu=""):
    gpus = (Gpu("some GPU", 8 << 30, "580.1", gpu),) if gpu else ()
    return Environment(
        cpu="some CPU",
        arch=arch,
        isa=isa,
        cores_logical=4,
        cores_physical=4,
        cores_allowed=4,
        cgroup_cpus=None,
        cgroup_memory_bytes=None,
        memory_bytes=8 << 30,
        memory_available_bytes=4 << 30,
        clocks=Clocks(),
        load_average=(0.0, 0.0, 0.0),
        gpus=gpus,
    )


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        pytest.param(machine(isa=("avx2",)), "generic_x86", id="haswell"),
        pytest.param(machine(isa=("avx2", "avx512_vnni")), "x86_avx512_vnni", id="cascade lake"),
        pytest.param(machine(isa=("avx2", "avx_vnni")), "x86_avx512_vnni", id="alder lake"),
        pytest.param(machine(isa=("avx512_vnni", "amx_int8")), "x86_avx512_vnni", id="sapphire rapids"),
        pytest.param(machine("aarch64", ("asimd",)), "generic_arm64", id="raspberry pi 4"),
        pytest.param(machine("aarch64", ("asimd", "asimddp")), "arm64_cortex_a76", id="raspberry pi 5"),
        pytest.param(machine("aarch64", ("asimd", "asimddp"), "8.7"), "jetson_orin", id="orin"),
        pytest.param(machine(isa=("avx512_vnni",), gpu="8.9"), "rtx_40", id="rtx 4090"),
        pytest.param(machine(isa=("avx512_vnni",), gpu="12.0"), "rtx_50", id="rtx 5090"),
        pytest.param(machine(isa=("avx512_vnni",), gpu="9.0"), "x86_avx512_vnni", id="another GPU"),
    ],
)
def test_the_most_specific_profile_is_picked(environment, name):
    profile, why = pick_profile(environment)
    assert profile.name == name
    assert profile.title in why


def test_why_names_what_decided():
    _, why = pick_profile(machine("aarch64", ("asimd", "asimddp")))
    assert "asimddp" in why
    _, why = pick_profile(machine(gpu="8.9"))
    assert "some GPU" in why


def test_an_unknown_architecture_has_to_be_named():
    with pytest.raises(UnsupportedError, match="riscv64"):
        pick_profile(machine("riscv64"))


def test_this_machine_gets_a_profile():
    from mscsa_deploy.core.environment import read_environment

    profile, why = pick_profile(read_environment())
    assert profile.name in profile_names()
    assert why


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_says_only_what_exists(name):
    profile = read_profile(name)
    assert profile.name == name
    assert set(profile.default_runtimes) <= set(profile.runtimes)
    assert {*profile.match.isa_all, *profile.match.isa_any} <= set(ISA_OF_INTEREST)
    for runtime, entry in profile.runtimes.items():
        known = set(RUNTIMES.load(runtime).options)
        assert set(entry.options) <= known
        assert set(entry.options_by_precision) <= set(PRECISIONS)
        assert all(set(options) <= known for options in entry.options_by_precision.values())
        assert set(entry.precisions) <= set(PRECISIONS)
        assert bool(entry.compute_capabilities) == (runtime == "tensorrt")


def test_the_readme_lists_every_profile_and_starts_with_its_code():
    text = (shipped_folder("runtimes") / "README.md").read_text(encoding="utf-8")
    assert "mscsa_deploy/runtimes/profile.py" in text.splitlines()[0]
    assert sorted(re.findall(r"^\| `(\w+)` \| (?:any|x86|Cortex|Jetson|GeForce)", text, re.MULTILINE)) == sorted(
        profile_names()
    )


@pytest.fixture
def own(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


OWN = """
title = "mine"
threads = 2
default_runtimes = ["openvino"]
[match]
[runtimes.openvino]
options = {NUM_STREAMS = 1}
options_by_precision = {int8 = {float_precision = "bf16"}}
"""


def test_a_file_of_ones_own_is_read_and_gives_settings(own):
    profile = read_profile(own(OWN))
    assert profile.name == "mine"
    settings = profile.settings("openvino", "int8")
    assert (settings.threads, settings.precision, settings.device) == (2, "int8", "cpu")
    assert settings.options == {"NUM_STREAMS": 1, "float_precision": "bf16"}
    assert profile.settings("openvino", "fp32", threads=1).options == {"NUM_STREAMS": 1}
    assert profile.settings("onnxruntime", "fp32").options == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title", "titel"), "titel"),
        (("threads = 2", "threads = 0"), "at least 1"),
        (('["openvino"]', '["openvin"]'), "did you mean 'openvino'"),
        (("[runtimes.openvino]", "[runtimes.openvin]"), "did you mean 'openvino'"),
        (("threads = 2", 'name = "x"'), "called as its file"),
        (("threads = 2", 'affinity = "left"'), "affinity|left"),
    ],
)
def test_a_wrong_file_is_the_users(own, change, message):
    with pytest.raises(UserError, match=message):
        read_profile(own(OWN.replace(*change)))


def test_an_unknown_profile_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'rtx_40'"):
        read_profile("rtx_4")


def test_affinity_chooses_among_the_allowed_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 7}, raising=False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module, "_capacity", lambda core: {5: 1024, 7: 1024}.get(core, 400))
    profile = read_profile("generic_x86")
    assert profile.cores(2) == ()
    assert replace_affinity(profile, "first").cores(2) == (1, 3)
    assert replace_affinity(profile, "big").cores(1) == (5,)
    assert replace_affinity(profile, "big").cores(3) == (1, 5, 7)


def replace_affinity(profile, affinity):
    import msgspec

    return msgspec.structs.replace(profile, affinity=affinity)


def test_a_limited_gpu_does_not_hide_the_cpu():
    blind = replace(machine(isa=("avx512_vnni",)), gpus=())
    assert pick_profile(blind)[0].name == "x86_avx512_vnni"
