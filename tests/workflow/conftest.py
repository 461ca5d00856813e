"""Deployments of a small random network, and a model from elsewhere, as several files of tests look at them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

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


@pytest.fixture
def write_foreign(tmp_path):
    """Writes a model from elsewhere that takes 64x64 pictures, and folders of blurred noise for it.

    The network is ONNX text with weights ``w0``, ``w1``... of the given shapes; `counts` says how many pictures each
    folder holds, in the folder `below` it where that is given. Returned is what the command line has to be told.
    """

    def write(net, shapes, counts, *, below=""):
        generator = np.random.default_rng(0)
        network = parser.parse_model(net)
        for index, shape in enumerate(shapes):
            weights = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            network.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), f"w{index}"))
        onnx.save(network, str(tmp_path / "net.onnx"))
        (tmp_path / "preprocess.toml").write_text("height = 64\nwidth = 64\n")
        for folder, count in counts.items():
            place = tmp_path / folder / below
            place.mkdir(parents=True)
            for index in range(count):
                coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((64, 64)).save(place / f"{index}.png")
        return str(tmp_path / "net.onnx"), "--task", "seg", "--preprocess", str(tmp_path / "preprocess.toml")

    return write
