"""Damaged, foreign and hostile files: a clear error, and no code of theirs is run."""

import io
import os
import pickle
import random
import tarfile
import warnings
import zipfile

import pytest
import safetensors.torch
import torch

from mscsa_deploy.errors import CheckpointError
from mscsa_deploy.models.checkpoint import fit, load_checkpoint, model_metadata, save_checkpoint
from mscsa_deploy.models.checkpoint_read import write_safetensors
from mscsa_deploy.models.spec import ModelOptions, build_model


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Hook:
    """Runs code through its state instead."""

    def __init__(self, place):
        self.place = place

    def __setstate__(self, state):
        open(state["place"], "w").close()  # noqa: PTH123 - what an attacker would write


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "inside", "first"])
def test_code_is_refused_and_not_run(tmp_path, place, legacy):
    mark = tmp_path / "executed"
    attack = Attack(f"touch {mark}")
    weights = {"backbone.tpm.stem.0.c.weight": torch.zeros(16, 3, 3, 3)}
    content = {
        "beside": {"state_dict": weights, "hooks": attack},
        "inside": {"state_dict": {**weights, "x": attack}},
        "first": [attack, weights],
    }[place]
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="could run code, so it was refused") as caught:
        load_checkpoint(tmp_path / "x.pth")
    assert "system" in str(caught.value)
    assert "torch.save(model.state_dict()" in caught.value.hint
    assert not mark.exists()
    # The file is live ammunition: an unrestricted reader would have run it.
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert mark.exists()


def test_code_in_a_bare_pickle_is_refused(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"state_dict": Attack(f"touch {mark}")}))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.pth")
    assert not mark.exists()


def test_code_in_an_object_state_is_refused(tmp_path):
    mark = tmp_path / "executed"
    torch.save({"state_dict": {}, "x": Hook(str(mark))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="Hook"):
        load_checkpoint(tmp_path / "x.pth")
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_tar_is_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "x.pth.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(CheckpointError, match="tar archive"):
        load_checkpoint(tmp_path / "x.pth.tar")


def test_missing_empty_and_directory(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="directory"):
        load_checkpoint(tmp_path)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        load_checkpoint(tmp_path / "empty.pth")


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"\x08\x07ONNX-like protobuf", b"version https://git-lfs"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="neither a safetensors nor a PyTorch file"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content",
    [pytest.param({"epoch": 3}, id="no-weights"), pytest.param([1, 2], id="list"), pytest.param({}, id="empty")],
)
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_safetensors_file_without_tensors_is_refused(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_checkpoint(tmp_path / "x.safetensors")


def written(kind):
    state = {f"layer{i}.weight": torch.arange(24.0).reshape(4, 6) + i for i in range(4)}
    stream = io.BytesIO()
    if kind == "safetensors":
        return safetensors.torch.save(state)
    torch.save({"state_dict": state}, stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")  # a damaged pickle may trip deprecated paths of the reader
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused(tmp_path, kind):
    content = written(kind)
    for cut in range(1, len(content), max(len(content) // 40, 1)):
        (tmp_path / "x").write_bytes(content[:cut])
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "x")


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_give_tensors_or_a_checkpoint_error(tmp_path, kind):
    content, chance = written(kind), random.Random(4)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 3))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "x").write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(tmp_path / "x")
        except CheckpointError:
            continue
        assert all(isinstance(value, torch.Tensor) for value in checkpoint.tensors.values())


def small():
    return build_model("topformer_t", "cls", ModelOptions(num_classes=3)).eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    state = small().state_dict()
    state["backbone.tpm.layer3.conv.0.c.weight"][0, 0, 0, 0] = value
    torch.save({"state_dict": {f"module.{name}": each for name, each in state.items()}}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"'module\.backbone\.tpm\.layer3\.conv\.0\.c\.weight' holds 1 NaN or inf"
    ):
        fit("topformer_t", "cls", load_checkpoint(tmp_path / "x.pth"))


def test_negative_variances_are_refused(tmp_path):
    state = small().state_dict()
    state["backbone.tpm.stem.0.bn.running_var"][0] = -1.0
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="negative"):
        fit("topformer_t", "cls", load_checkpoint(tmp_path / "x.pth"))


def test_integer_and_sparse_weights_are_refused(tmp_path):
    name = "backbone.trans.transformer_blocks.0.attn.to_q.c.weight"
    for change in (lambda value: value.to(torch.int8), lambda value: value.to_sparse()):
        state = small().state_dict()
        state[name] = change(state[name])
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            fit("topformer_t", "cls", load_checkpoint(tmp_path / "x.pth"))


def test_saving_bad_weights_leaves_nothing(tmp_path):
    model = small()
    with torch.no_grad():
        model.head.l.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'head\.l\.weight' holds NaN"):
        save_checkpoint(tmp_path / "x.safetensors", model, model_metadata("topformer_t", "cls", ModelOptions()))
    assert list(tmp_path.iterdir()) == []


def test_saving_values_too_large_for_half_is_refused(tmp_path):
    model = small()
    with torch.no_grad():
        model.head.l.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"head\.l\.weight"):
        save_checkpoint(tmp_path / "x.safetensors", model, {}, half=True)


def test_our_safetensors_are_what_the_library_reads(tmp_path):
    tensors = {"b": torch.randn(3, 2), "a": torch.arange(3), "c": torch.randn(5).half(), "d": torch.zeros(())}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"z": "1", "y": "ü"})
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as stream:
        assert stream.metadata() == {"y": "ü", "z": "1"}
        assert all(torch.equal(stream.get_tensor(name), value) for name, value in tensors.items())
