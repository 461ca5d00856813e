"""Every way people store these weights loads into the same model."""

import argparse
import re
import sys
import types

import numpy as np
import pytest
import torch

from mscsa_deploy.errors import CheckpointError, UserError
from mscsa_deploy.models.checkpoint import Rename, fit, load_checkpoint, randomize, read_key_map
from mscsa_deploy.models.spec import ModelOptions, build_model


def made(name, task, classes=5, seed=1, **options):
    return randomize(build_model(name, task, ModelOptions(num_classes=classes, **options)).eval(), seed, (64, 64))


@pytest.fixture(scope="module")
def segmenter():
    return made("topformer_t", "seg")


@pytest.fixture(scope="module")
def mixer():
    return made("topformer_t_mscsa", "seg")


@pytest.fixture(scope="module")
def classifier():
    return made("pvt_v2_b0", "cls")


def same(model, other):
    image = torch.linspace(-2, 2, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        return torch.equal(model(image), other(image))


def loaded(path, content, name, task, *, legacy=False, **keywords):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return fit(name, task, load_checkpoint(path, **keywords))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_a_plain_state_dict_loads(tmp_path, segmenter, suffix, legacy):
    result = loaded(tmp_path / f"x{suffix}", segmenter.state_dict(), "topformer_t", "seg", legacy=legacy)
    assert same(result.model, segmenter)
    assert not result.model.training
    assert result.options.num_classes == 5
    assert result.report.layout == "top level, names of mmsegmentation"
    assert result.report.loaded == len(segmenter.state_dict())
    assert not result.report.difference


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_containers_are_opened(tmp_path, segmenter, key):
    result = loaded(tmp_path / "x.pth", {key: segmenter.state_dict(), "epoch": 3}, "topformer_t", "seg")
    assert same(result.model, segmenter)
    assert f"'{key}'" in result.report.layout


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net.module."])
def test_wrapper_prefixes_are_cut_off(tmp_path, segmenter, prefix):
    state = {prefix + name: value for name, value in segmenter.state_dict().items()}
    assert same(loaded(tmp_path / "x.pth", {"state_dict": state}, "topformer_t", "seg").model, segmenter)


def test_mmsegmentation_training_file_loads(tmp_path, segmenter):
    state = dict(segmenter.state_dict())
    state["decode_head.auxiliary"] = torch.zeros(1)
    del state["decode_head.auxiliary"]
    state["auxiliary_head.conv_seg.weight"] = torch.zeros(5, 3, 1, 1)
    state["ema_backbone_tpm_stem_0_c_weight"] = torch.zeros(1)
    content = {
        "meta": {"CLASSES": ("a", "b"), "PALETTE": [[0, 1, 2]], "iter": np.int64(7), "config": "norm_cfg = dict()"},
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": state,
    }
    result = loaded(tmp_path / "iter_160000.pth", content, "topformer_t", "seg")
    assert same(result.model, segmenter)
    assert sorted(result.report.ignored) == ["auxiliary_head.conv_seg.weight", "ema_backbone_tpm_stem_0_c_weight"]


def test_values_beside_the_weights_do_not_matter(tmp_path, segmenter):
    content = {
        "model": segmenter.state_dict(),
        "args": argparse.Namespace(lr=0.1, epochs=[1, 2]),
        "best": np.float64(0.5),
        "curve": np.arange(4, dtype=np.float32),
        "scaler": None,
    }
    for legacy in (False, True):
        assert same(loaded(tmp_path / "x.pth", content, "topformer_t", "seg", legacy=legacy).model, segmenter)


def test_mmengine_message_hub_is_passed_over(tmp_path, segmenter, monkeypatch):
    package, module = types.ModuleType("mmengine.logging"), types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self.log = np.zeros(3)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    with monkeypatch.context() as patch:
        for name, each in (
            ("mmengine", types.ModuleType("mmengine")),
            (package.__name__, package),
            (module.__name__, module),
        ):
            patch.setitem(sys.modules, name, each)
        torch.save({"state_dict": segmenter.state_dict(), "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "x.pth")
    assert same(fit("topformer_t", "seg", load_checkpoint(tmp_path / "x.pth")).model, segmenter)


def test_official_topformer_classifier_loads(tmp_path):
    model = made("topformer_t", "cls")
    state = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    assert {name.split(".")[0] for name in state} == {"tpm", "trans", "head"}
    result = loaded(tmp_path / "topformer-T-224.pth", {"state_dict": state}, "topformer_t", "cls")
    assert same(result.model, model)
    assert result.report.layout.endswith("names of bare")


def test_official_pvt_loads(tmp_path, classifier):
    state = {name.removeprefix("backbone."): value for name, value in classifier.state_dict().items()}
    assert {"patch_embed1.proj.weight", "block1.0.attn.kv.weight", "norm4.bias", "head.weight"} <= set(state)
    assert same(loaded(tmp_path / "pvt_v2_b0.pth", state, "pvt_v2_b0", "cls").model, classifier)


def test_timm_names_load(tmp_path, classifier):
    state = {}
    for name, value in classifier.state_dict().items():
        body = name.removeprefix("backbone.").replace("patch_embed1.", "patch_embed.")
        body = re.sub(r"^patch_embed(\d)", lambda m: f"stages.{int(m[1]) - 1}.downsample", body)
        body = re.sub(r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.", body)
        body = re.sub(r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm.", body)
        state[body.replace("dwconv.dwconv", "dwconv")] = value
    assert "stages.1.downsample.proj.weight" in state
    assert "stages.0.blocks.1.mlp.dwconv.weight" in state
    result = loaded(tmp_path / "model.bin", state, "pvt_v2_b0", "cls")
    assert same(result.model, classifier)
    assert result.report.layout.endswith("names of timm")


def test_mmpretrain_head_loads(tmp_path, classifier):
    state = {re.sub(r"^head\.", "head.fc.", name): value for name, value in classifier.state_dict().items()}
    state["data_preprocessor.mean"] = torch.zeros(3)
    assert same(loaded(tmp_path / "x.pth", {"state_dict": state}, "pvt_v2_b0", "cls").model, classifier)


def test_average_is_taken_only_when_asked_for(tmp_path, segmenter):
    average = made("topformer_t", "seg", seed=2)
    content = {"state_dict": segmenter.state_dict(), "state_dict_ema": average.state_dict()}
    plain = loaded(tmp_path / "x.pth", content, "topformer_t", "seg")
    assert same(plain.model, segmenter)
    assert "'state_dict_ema' was not used" in plain.report.layout
    averaged = loaded(tmp_path / "x.pth", content, "topformer_t", "seg", ema=True)
    assert same(averaged.model, average)
    assert "'state_dict_ema' (a moving average)" in averaged.report.layout


def test_average_alone_is_taken_and_named(tmp_path, segmenter):
    result = loaded(tmp_path / "x.pth", {"model_ema": {"module": segmenter.state_dict()}}, "topformer_t", "seg")
    assert same(result.model, segmenter)
    assert "'model_ema/module' (a moving average)" in result.report.layout


def test_asking_for_an_average_that_is_not_there_is_refused(tmp_path, segmenter):
    torch.save(segmenter.state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no moving average"):
        load_checkpoint(tmp_path / "x.pth", ema=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path, segmenter, dtype):
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in segmenter.state_dict().items()
    }
    result = loaded(tmp_path / "x.pth", state, "topformer_t", "seg")
    assert {value.dtype for value in result.model.parameters()} == {torch.float32}
    weight = "backbone.tpm.stem.0.c.weight"
    assert torch.equal(result.model.state_dict()[weight], state[weight].float())


def test_batch_counters_are_optional(tmp_path, segmenter):
    state = {name: value for name, value in segmenter.state_dict().items() if "num_batches" not in name}
    result = loaded(tmp_path / "x.pth", state, "topformer_t", "seg")
    assert same(result.model, segmenter)
    assert all(int(value) == 0 for name, value in result.model.state_dict().items() if "num_batches" in name)


def test_loading_leaves_the_random_state_alone(tmp_path, segmenter):
    torch.save(segmenter.state_dict(), tmp_path / "x.pth")
    checkpoint = load_checkpoint(tmp_path / "x.pth")
    before = torch.random.get_rng_state()
    fit("topformer_t", "seg", checkpoint)
    fit("topformer_t_mscsa", "seg", checkpoint, allow_partial=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def foreign(model):
    """The names another MSCSA implementation might have."""
    return {
        name.replace("backbone.mscsa.blocks.", "backbone.trans.layers.").replace(".csa", ".attn_"): value
        for name, value in model.state_dict().items()
    }


def test_key_map_renames(tmp_path, mixer):
    (tmp_path / "map.toml").write_text(
        "[[rename]]\npattern = '\\.attn_(\\d)\\.'\nreplacement = '.csa\\1.'\n"
        "[[rename]]\npattern = '^backbone\\.trans\\.layers\\.'\nreplacement = 'backbone.mscsa.blocks.'\n"
        "[[rename]]\npattern = '^teacher\\..*$'\nreplacement = ''\n"
        "[[rename]]\npattern = 'never'\nreplacement = 'x'\n"
    )
    torch.save(foreign(mixer) | {"teacher.weight": torch.zeros(2)}, tmp_path / "x.pth")
    rules = read_key_map(tmp_path / "map.toml")
    result = fit("topformer_t_mscsa", "seg", load_checkpoint(tmp_path / "x.pth"), key_map=rules)
    assert same(result.model, mixer)
    assert result.report.unused_rules == ("never",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rename]]\npattern = '('\nreplacement = ''\n", "unterminated"),
        ("[[rename]]\npattern = 'a'\nreplacement = '\\2'\n", "invalid group"),
        ("[[rename]]\npattern = 'a'\n", "replacement"),
        ("[[rename]]\npattern = 'a'\nreplacement = 'b'\nflags = 1\n", "flags"),
        ("[[renames]]\npattern = 'a'\nreplacement = 'b'\n", "rename"),
        ("pattern = ", "not valid TOML"),
    ],
)
def test_bad_key_maps_are_refused(tmp_path, text, message):
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_key_map(path)
    assert "map.toml" in str(caught.value)


def test_missing_key_map_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_key_map(tmp_path / "none.toml")


def test_two_names_that_become_one_are_refused(tmp_path, segmenter):
    state = dict(segmenter.state_dict())
    state["module.backbone.tpm.stem.0.c.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"'backbone\.tpm\.stem\.0\.c\.weight' and 'module\.backbone"):
        fit("topformer_t", "seg", load_checkpoint(tmp_path / "x.pth"))
    rules = (Rename(pattern=r"^module\..*", replacement=""),)
    assert same(fit("topformer_t", "seg", load_checkpoint(tmp_path / "x.pth"), key_map=rules).model, segmenter)
