"""Deployments of a small random network, as several files of tests look at them."""

from __future__ import annotations

import pytest

from mscsa_deploy.cli import run

SMALL = ("topformer_t_mscsa", "--task", "seg", "--random-weights", "3", "--num-classes", "13", "--size", "64x96")
QUICK = (
    *("--runtime", "onnxruntime,openvino", "--device", "generic_x86", "--preset", "smoke"),
    *("--calibration-images", "6", "--evaluation-images", "4"),
)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """The network on the command line."""
    return SMALL


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory):
    """A cache that holds nothing but work on the small network."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cache(small_cache):
    """That cache for a whole module, whose tests share finished work and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSCSA_DEPLOY_CACHE", str(small_cache))
        yield small_cache


@pytest.fixture(scope="module")
def deploy_small(cache, tmp_path_factory):
    """Deploys the small network for ONNX Runtime and OpenVINO; (exit code, bundle)."""

    def deploy(*more):
        out = tmp_path_factory.mktemp("deploy") / "bundle"
        return run(["deploy", *SMALL, *QUICK, *more, "-o", str(out), "-q"]), out

    return deploy
