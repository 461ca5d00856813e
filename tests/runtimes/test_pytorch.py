from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.errors import CheckpointError, DeployError, UnsupportedError
from mscsa_deploy.runtimes import pytorch as adapter
from mscsa_deploy.runtimes.protocol import SessionSettings


@pytest.fixture
def runtime(needs):
    return needs("pytorch")


@pytest.fixture
def case(runtime, cases):
    return cases("pytorch")


@pytest.fixture
def vendor_classes(runtime):
    import torch

    return {name: kind for name, kind in vars(torch).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_every_vendor_error_is_mapped(vendor_classes):
    assert set(vendor_classes) == set(adapter.ERRORS)


def test_the_seam_maps_each_and_keeps_the_cause(vendor_classes):
    for name, kind in vendor_classes.items():
        with pytest.raises(DeployError) as caught, adapter.seam("m.safetensors", "inference"):
            raise kind("what the vendor said")
        assert type(caught.value) is adapter.ERRORS[name]
        assert isinstance(caught.value.__cause__, kind)


def test_the_batch_is_free(runtime, case):
    with runtime.load(case.path, SessionSettings()) as session:
        pair = session.run({"image": np.repeat(case.feed["image"], 2, axis=0)})["logits"]
        assert session.inputs[0].shape == (-1, 3, 64, 64)
    assert pair.shape == (2, 8)


def test_channels_last_gives_the_same_answer(runtime, case):
    with runtime.load(case.path, SessionSettings(options={"channels_last": True})) as session:
        # Another summation order of float32 terms, some 1e-6 of values near 1.
        assert np.allclose(session.run(case.feed)["logits"], case.expected["logits"], rtol=0, atol=1e-4)


def test_bf16_runs_on_request_only(runtime, case):
    bf16 = SessionSettings(precision="bf16")
    if "bf16" not in runtime.probe().precisions:
        with pytest.raises(UnsupportedError, match="bf16"):
            runtime.load(case.path, bf16)
    else:
        with runtime.load(case.path, bf16) as session:
            assert session.executed_precision.startswith("bf16")
            assert session.run(case.feed)["logits"].dtype == np.float32


def test_a_file_without_its_input_size_is_refused(runtime, case, tmp_path):
    from mscsa_deploy.models.checkpoint import load_model_file, model_metadata, save_checkpoint
    from mscsa_deploy.models.spec import ModelOptions

    model, _ = load_model_file(case.path)
    path = tmp_path / "no_size.safetensors"
    save_checkpoint(path, model, model_metadata("topformer_t_mscsa", "cls", ModelOptions(num_classes=8)))
    with pytest.raises(CheckpointError, match="expected HxW"):
        runtime.load(path, SessionSettings())


def test_a_compiled_model_has_no_profile(runtime, case):
    with pytest.raises(UnsupportedError, match="compiled"):
        runtime.profile(case.path, SessionSettings(options={"compile": True}), case.feed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own compiler
def test_compiled_gives_the_same_answer(runtime, case):
    with runtime.load(case.path, SessionSettings(options={"compile": True})) as session:
        answer = session.run(case.feed)["logits"]
    # Fused kernels sum in another order than eager ones, some 1e-6 of values near 1.
    assert np.allclose(answer, case.expected["logits"], rtol=0, atol=1e-4)
