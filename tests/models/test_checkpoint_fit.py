"""What is said when a checkpoint does not fit, partial loading, and our own files."""

import pytest
import torch

from mscsa_deploy.errors import CheckpointError, UserError
from mscsa_deploy.models.checkpoint import (
    Checkpoint,
    fit,
    load_checkpoint,
    load_model_file,
    model_metadata,
    randomize,
    save_checkpoint,
)
from mscsa_deploy.models.spec import ModelOptions, build_model


def state_of(name, task, **options):
    """A state dict of zeros and ones: enough for names and shapes."""
    with torch.device("meta"):
        shapes = build_model(name, task, ModelOptions(**options)).state_dict()
    return {
        key: torch.zeros(value.shape, dtype=value.dtype) if value.dtype == torch.int64 else torch.ones(value.shape)
        for key, value in shapes.items()
    }


def checkpoint_of(tmp_path, state, metadata=None):
    return Checkpoint(tmp_path / "given.pth", state, metadata or {}, "top level")


def test_class_count_comes_from_the_head(tmp_path):
    for name, task in (("topformer_t", "cls"), ("topformer_t", "seg"), ("pvt_v2_b0", "cls"), ("pvt_v2_b0", "seg")):
        result = fit(name, task, checkpoint_of(tmp_path, state_of(name, task, num_classes=19)))
        assert result.options.num_classes == 19


def test_wrong_class_count_is_refused(tmp_path):
    checkpoint = checkpoint_of(tmp_path, state_of("topformer_t", "seg", num_classes=150))
    with pytest.raises(CheckpointError, match=r"has 150 classes, 13 were asked for"):
        fit("topformer_t", "seg", checkpoint, ModelOptions(num_classes=13))
    assert fit("topformer_t", "seg", checkpoint, ModelOptions(num_classes=150)).options.num_classes == 150


def test_strict_by_default_with_a_table(tmp_path):
    state = state_of("topformer_t", "seg", num_classes=5)
    state["module.backbone.tpm.stem.0.conv.weight"] = state.pop("backbone.tpm.stem.0.c.weight")
    state["decode_head.linear_fuse.bn.bias"] = torch.zeros(64)
    state["something.else"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        fit("topformer_t", "seg", checkpoint_of(tmp_path, state))
    text = str(caught.value)
    assert "does not fit topformer_t for seg: 1 missing, 2 unexpected, 1 of the wrong shape" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    near = "nearest in the file: module.backbone.tpm.stem.0.conv.weight"
    assert f"missing backbone.tpm.stem.0.c.weight {near}" in lines
    back = "nearest in the model: backbone.tpm.stem.0.c.weight"
    assert f"unexpected module.backbone.tpm.stem.0.conv.weight {back}" in lines
    assert "wrong shape decode_head.linear_fuse.bn.bias 64 in the file, 128 in the model" in lines
    assert any(line.startswith("unexpected something.else") for line in lines)
    assert "key map" in caught.value.hint


def test_long_tables_are_cut(tmp_path):
    state = state_of("topformer_t", "seg")
    kept = {key: value for key, value in state.items() if "layer9" not in key and "trans." not in key}
    kept["backbone.new"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        fit("topformer_t", "seg", checkpoint_of(tmp_path, kept))
    assert len(str(caught.value).splitlines()) < 40
    assert " more" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "task", "options", "advice"),
    [
        ("topformer_t_mscsa", "seg", {"dw_kernels": (3, 7)}, "dw_kernels = [3, 7]"),
        ("topformer_t_mscsa", "cls", {"dw_kernels": (5, 5), "key_dim": 16}, "dw_kernels = [5, 5], key_dim = 16"),
        ("topformer_t_mscsa", "cls", {"downsampling": "single"}, 'downsampling = "single"'),
        ("topformer_t_mscsa", "cls", {"downsampling": "avgpool"}, 'downsampling = "avgpool"'),
        ("topformer_t_mscsa", "cls", {"multi_scale": False}, "multi_scale = false"),
        ("topformer_t_mscsa", "cls", {"parallel_conv": False}, "parallel_conv = false"),
        ("topformer_t_mscsa", "cls", {"intra_ffn": False, "mlp_ratio": 2}, "intra_ffn = false, mlp_ratio = 2"),
        ("pvt_v2_b0_mscsa", "cls", {"cls_head": "concat"}, 'cls_head = "concat"'),
        ("pvt_v2_b0_mscsa", "seg", {"key_dim": 8}, "key_dim = 8"),
    ],
)
def test_the_option_that_fits_is_suggested(tmp_path, name, task, options, advice):
    checkpoint = checkpoint_of(tmp_path, state_of(name, task, num_classes=4, **options))
    with pytest.raises(CheckpointError) as caught:
        fit(name, task, checkpoint)
    assert f"it fits with {advice} (options of the recipe)" in caught.value.hint
    result = fit(name, task, checkpoint, ModelOptions(**options))
    assert result.options == ModelOptions(num_classes=4, **options)


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (("topformer_b", "seg"), ("topformer_t", "seg")),
        (("topformer_t", "cls"), ("topformer_t", "seg")),
        (("pvt_v2_b2_mscsa", "seg"), ("pvt_v2_b1_mscsa", "seg")),
        (("pvt_v2_b0", "cls"), ("topformer_t_mscsa", "cls")),
        (("topformer_t_mscsa", "seg"), ("topformer_t", "seg")),
    ],
)
def test_the_model_that_fits_is_suggested(tmp_path, held, asked):
    with pytest.raises(CheckpointError) as caught:
        fit(*asked, checkpoint_of(tmp_path, state_of(*held, num_classes=6)))
    assert f"it fits {held[0]} for {held[1]}" in caught.value.hint


def test_partial_loading_takes_what_fits_and_lists_the_rest(tmp_path):
    source = randomize(build_model("topformer_t", "seg", ModelOptions(num_classes=7)), 3, (64, 64))
    state = dict(source.state_dict())
    checkpoint = checkpoint_of(tmp_path, state)
    with pytest.raises(CheckpointError):
        fit("topformer_t_mscsa", "seg", checkpoint)
    result = fit("topformer_t_mscsa", "seg", checkpoint, ModelOptions(num_classes=3), allow_partial=True)
    difference = result.report.difference
    assert all(key.startswith("backbone.mscsa.") for key in difference.missing)
    assert "backbone.mscsa.blocks.0.csa1.norm.weight" in result.report.table
    assert all(key.startswith("backbone.trans.") for key in difference.unexpected)
    assert {key for key, *_ in difference.misshapen} == {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}
    got = result.model.state_dict()
    for key, value in state.items():
        if key.startswith(("backbone.tpm.", "backbone.SIM.", "decode_head.linear_fuse.")):
            assert torch.equal(got[key], value)
    assert tuple(got["decode_head.conv_seg.weight"].shape) == (3, 128, 1, 1)
    again = fit("topformer_t_mscsa", "seg", checkpoint, ModelOptions(num_classes=3), allow_partial=True)
    assert all(torch.equal(a, b) for a, b in zip(got.values(), again.model.state_dict().values(), strict=True))


def test_partial_loading_of_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no tensor of checkpoint"):
        fit("topformer_t", "seg", checkpoint_of(tmp_path, {"x": torch.zeros(1)}), allow_partial=True)


def test_partial_loading_still_refuses_bad_numbers(tmp_path):
    state = state_of("topformer_t", "cls")
    state["backbone.tpm.stem.0.bn.bias"][3] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        fit("topformer_t_mscsa", "cls", checkpoint_of(tmp_path, state), allow_partial=True)


def test_options_without_a_trace_in_shapes_are_taken_from_the_caller(tmp_path):
    checkpoint = checkpoint_of(tmp_path, state_of("topformer_t_mscsa", "seg"))
    result = fit("topformer_t_mscsa", "seg", checkpoint, ModelOptions(ffn_act="gelu", gate_at="high"))
    assert isinstance(result.model.backbone.mscsa.blocks[0].ffn.act, torch.nn.GELU)
    assert result.model.backbone.SIM[1].gate_at == "high"


def test_unknown_names_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="unknown model"):
        fit("topformer_s", "seg", checkpoint_of(tmp_path, {"x": torch.zeros(1)}))


@pytest.fixture(scope="module")
def own():
    options = ModelOptions(num_classes=4, ffn_act="gelu", dw_kernels=(3, 3))
    return randomize(build_model("topformer_t_mscsa", "seg", options).eval(), 2, (64, 64)), options


def test_our_file_comes_back_alone(tmp_path, own):
    model, options = own
    path = tmp_path / "m.safetensors"
    extra = {"mscsa_deploy.labels": '["a","b","c","d"]', "mscsa_deploy.input_size": "64x64"}
    save_checkpoint(path, model, model_metadata("topformer_t_mscsa", "seg", options) | extra)
    loaded, metadata = load_model_file(path)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    assert metadata["mscsa_deploy.labels"] == '["a","b","c","d"]'
    assert metadata["mscsa_deploy.model"] == "topformer_t_mscsa"


def test_the_same_model_gives_the_same_bytes(tmp_path, own):
    model, options = own
    metadata = model_metadata("topformer_t_mscsa", "seg", options)
    save_checkpoint(tmp_path / "a.safetensors", model, metadata)
    save_checkpoint(
        tmp_path / "b.safetensors", load_model_file(tmp_path / "a.safetensors")[0], dict(reversed(metadata.items()))
    )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_half_files_are_half_the_size_and_close(tmp_path, own):
    model, options = own
    metadata = model_metadata("topformer_t_mscsa", "seg", options)
    save_checkpoint(tmp_path / "full.safetensors", model, metadata)
    save_checkpoint(tmp_path / "half.safetensors", model, metadata, half=True)
    sizes = [(tmp_path / f"{kind}.safetensors").stat().st_size for kind in ("full", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    loaded, _ = load_model_file(tmp_path / "half.safetensors")
    for name, value in model.state_dict().items():
        got = loaded.state_dict()[name]
        if value.ndim > 1:
            # float16 keeps 11 bits.
            torch.testing.assert_close(got, value, rtol=2**-11, atol=1e-7)
        else:
            assert torch.equal(got, value)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (1e6, True)], ids=["NaN", "beyond float16"])
def test_weights_that_a_file_cannot_hold_are_not_written(tmp_path, value, half):
    model = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.constant_(model.weight, value)
    with pytest.raises(CheckpointError, match="tensor 'weight' holds NaN or infinite values"):
        save_checkpoint(tmp_path / "m.safetensors", model, {}, half=half)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_forced(tmp_path, own):
    model, options = own
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(UserError, match="already exists"):
        save_checkpoint(path, model, {})
    assert path.read_text() == "precious"
    save_checkpoint(path, model, model_metadata("topformer_t_mscsa", "seg", options), force=True)
    load_model_file(path)


def test_our_file_brings_its_options_and_refuses_others(tmp_path, own):
    model, options = own
    save_checkpoint(tmp_path / "m.safetensors", model, model_metadata("topformer_t_mscsa", "seg", options))
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert fit("topformer_t_mscsa", "seg", checkpoint).options == options
    with pytest.raises(CheckpointError, match="has ffn_act = gelu, but hardswish was asked for"):
        fit("topformer_t_mscsa", "seg", checkpoint, ModelOptions(ffn_act="hardswish"))
    with pytest.raises(CheckpointError, match="is a topformer_t_mscsa for seg, not a topformer_t for seg"):
        fit("topformer_t", "seg", checkpoint)
    assert fit("topformer_t", "seg", checkpoint, allow_partial=True).report.loaded > 100


def test_files_that_do_not_name_their_model_are_refused(tmp_path, own):
    save_checkpoint(tmp_path / "m.safetensors", own[0], {})
    with pytest.raises(CheckpointError, match="does not say which model"):
        load_model_file(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("entry", "message"),
    [("not json", "not JSON"), ('{"color": 1}', "unknown model option 'color'"), ("[]", "options")],
)
def test_bad_option_entries_are_refused(tmp_path, own, entry, message):
    metadata = model_metadata("topformer_t_mscsa", "seg", own[1]) | {"mscsa_deploy.options": entry}
    save_checkpoint(tmp_path / "m.safetensors", own[0], metadata)
    with pytest.raises(UserError, match=message):
        load_model_file(tmp_path / "m.safetensors")
