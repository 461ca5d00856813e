"""PVTv2 against transformers' implementation, which nobody here wrote, with transplanted weights."""

from pathlib import Path

import pytest
import torch

from mscsa_deploy.models.checkpoint import Checkpoint, fit
from mscsa_deploy.models.randomize import randomize

DEPTHS = {"pvt_v2_b0": [2, 2, 2, 2], "pvt_v2_b1": [2, 2, 2, 2], "pvt_v2_b2": [3, 4, 6, 3]}


def oracle(name, classes):
    """transformers' model with random weights and norms, LayerNorm eps set as the public code has them."""
    from transformers import PvtV2Config, PvtV2ForImageClassification

    small = name == "pvt_v2_b0"
    config = PvtV2Config(
        hidden_sizes=[32, 64, 160, 256] if small else [64, 128, 320, 512],
        depths=DEPTHS[name],
        num_attention_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[8, 8, 4, 4],
        num_labels=classes,
    )
    model = PvtV2ForImageClassification(config).eval()
    for key, layer in model.named_modules():
        if isinstance(layer, torch.nn.LayerNorm):
            inner = ".attention." in key or ".patch_embedding." in key
            layer.eps = 1e-5 if inner else 1e-6
    return randomize(model, seed=7, input_size=(64, 64))


@pytest.mark.parametrize(("name", "size"), [("pvt_v2_b0", (96, 160)), ("pvt_v2_b1", (64, 96)), ("pvt_v2_b2", (64, 64))])
def test_stages_and_logits_equal_an_independent_implementation(name, size):
    other = oracle(name, classes=11)
    ours = fit(name, "cls", Checkpoint(Path("oracle"), dict(other.state_dict()), {}, "oracle"))
    assert ours.report.layout == "oracle, names of transformers"
    assert ours.options.num_classes == 11
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        want = other(image, output_hidden_states=True)
        maps, _ = ours.model.backbone(image)
        logits = ours.model(image)
    assert len(maps) == len(want.hidden_states) == 4
    for got, stage in zip(maps, want.hidden_states, strict=True):
        # The same sums in another order: float32 keeps about seven digits, six layers deep or more.
        torch.testing.assert_close(got, stage, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits, want.logits, atol=2e-5, rtol=1e-5)


def test_eps_matters_for_small_features():
    """The two eps of the public code are told apart by features whose variance is near them."""
    other = oracle("pvt_v2_b0", classes=3)
    ours = fit("pvt_v2_b0", "cls", Checkpoint(Path("oracle"), dict(other.state_dict()), {}, "oracle")).model
    for model, proj in (
        (other, other.pvt_v2.encoder.layers[0].patch_embedding.proj),
        (ours, ours.backbone.patch_embed1.proj),
    ):
        with torch.no_grad():
            proj.weight.mul_(1e-2)
            proj.bias.mul_(1e-2)
        assert not model.training
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), other(image).logits, atol=2e-5, rtol=1e-5)
        ours.backbone.patch_embed1.norm.eps = 1e-6
        assert float((ours(image) - other(image).logits).abs().max()) > 1e-4


def test_classifier_reads_the_mixed_map_or_both():
    from mscsa_deploy.models.spec import ModelOptions, build_model

    image = torch.randn(1, 3, 64, 64)
    for head, width in (("mscsa", 384), ("concat", 384 + 256)):
        model = build_model("pvt_v2_b0_mscsa", "cls", ModelOptions(num_classes=4, cls_head=head)).eval()
        assert model.head.in_features == width
        with torch.no_grad():
            maps, mixed = model.backbone(image)
            features = [mixed.mean(dim=(2, 3))]
            features = [maps[-1].mean(dim=(2, 3)), *features] if head == "concat" else features
            want = model.head(torch.cat(features, dim=1))
            torch.testing.assert_close(model(image), want)
