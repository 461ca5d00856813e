from __future__ import annotations

from pathlib import Path

import pytest

from mscsa_deploy.core.shipped import shipped_folder, shipped_names
from mscsa_deploy.errors import UserError
from mscsa_deploy.export.recipe import ExportRecipe, changed, read_recipe, recipe_for, weights_path

HEAD = 'model = "pvt_v2_b0_mscsa"\ntask = "cls"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_names("export"))
def test_shipped_recipe_is_readable_and_named_after_its_content(name: str) -> None:
    recipe = read_recipe(name)
    assert name == f"{recipe.model}.{recipe.task}"
    assert recipe.num_classes is not None
    assert recipe.full_preprocess().height == recipe.input_size[0]


def test_trained_recipe_names_the_classes_of_the_scenes() -> None:
    recipe = read_recipe("topformer_t_mscsa.seg")
    assets = (shipped_folder("calibration") / "scenes" / "assets.toml").read_text()
    listed = assets.split("labels = [", 1)[1].split("]", 1)[0]
    assert recipe.labels == tuple(label.strip(' "') for label in listed.split(",") if label.strip())
    assert recipe.num_classes == 13
    assert recipe.weights == "weights/topformer_t_mscsa.seg.safetensors"


def test_recipe_sets_model_options(tmp_path) -> None:
    text = HEAD + (
        'num_classes = 7\nffn_act = "gelu"\ncls_head = "concat"\ndw_kernels = [3, 7]\nsize = [256, 192]\n'
        "[ablation]\nintra_ffn = false\n[preprocess]\nmean = [0.5, 0.5, 0.5]\n"
    )
    recipe = read_recipe(write(tmp_path, text))
    options = recipe.options
    assert (options.num_classes, options.ffn_act, options.cls_head) == (7, "gelu", "concat")
    assert (options.dw_kernels, options.intra_ffn) == ((3, 7), False)
    preprocess = recipe.full_preprocess()
    assert (preprocess.height, preprocess.width, preprocess.mean) == (256, 192, (0.5, 0.5, 0.5))
    assert preprocess.resize == "short_side_crop"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(HEAD + "sise = [64, 64]", "sise", id="unknown_key"),
        pytest.param('model = "pvt_v2_b0_mscsa"', "task", id="missing_key"),
        pytest.param('model = "pvt_v2_b0_msca"\ntask = "cls"', "pvt_v2_b0_mscsa", id="unknown_model"),
        pytest.param(HEAD + "size = [100, 100]", "nearest size is 96x96", id="size"),
        pytest.param(HEAD + 'ffn_act = "swish"', "ffn_act", id="option"),
        pytest.param(HEAD + 'gate_at = "high"', "gate_at", id="option_of_another_task"),
        pytest.param(HEAD + "[ablation]\ndepth = 3", "depth", id="unknown_ablation"),
        pytest.param(HEAD + '[ablation]\nffn_act = "gelu"', "top level", id="option_under_ablation"),
        pytest.param(HEAD + 'output = "classmap"', "no class map", id="output"),
        pytest.param(HEAD + "opset = 7", "opset 7", id="opset"),
        pytest.param(HEAD + 'batch = "any"', "batch", id="batch"),
        pytest.param(HEAD + 'num_classes = 3\nlabels = ["a", "b"]', "2 labels for 3 classes", id="labels"),
        pytest.param(HEAD + 'labels = ["a", "b", "a"]', "labels given twice: a", id="double_label"),
        pytest.param(HEAD + "num_classes = 1\npalette = [[0, 0, 256]]", "outside 0-255", id="palette"),
        pytest.param(HEAD + 'weights = "/data/w.pth"', "absolute path", id="absolute_weights"),
        pytest.param(HEAD + "[preprocess]\nmeen = [0, 0, 0]", "meen", id="unknown_preprocess"),
        pytest.param(HEAD + "[preprocess]\nheight = 64", "preprocess makes 64x224", id="preprocess_size"),
        pytest.param("model = ", "not valid TOML", id="toml"),
    ],
)
def test_wrong_recipe_is_refused(tmp_path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe(write(tmp_path, text))


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'topformer_t_mscsa\.seg'"):
        read_recipe("topformer_t_msca.seg")


def test_weights_lie_beside_the_recipe(tmp_path) -> None:
    path = write(tmp_path, HEAD + 'weights = "w/mine.safetensors"')
    with pytest.raises(UserError, match=r"weights that are not there: '.*mine\.safetensors'.*--checkpoint"):
        weights_path(path)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.safetensors").write_bytes(b"")
    assert weights_path(path) == tmp_path / "w" / "mine.safetensors"
    assert weights_path(write(tmp_path, HEAD)) is None


def test_changed_takes_what_is_given_and_checks_it() -> None:
    recipe = ExportRecipe(model="topformer_t_mscsa", task="seg")
    assert changed(recipe, size=None, opset=17).opset == 17
    assert changed(recipe, size=(256, 320)).full_preprocess().width == 320
    with pytest.raises(UserError, match="nearest size"):
        changed(recipe, size=(5, 5))


def test_recipe_for_falls_back_to_defaults() -> None:
    assert recipe_for("topformer_t_mscsa", "seg").num_classes == 13
    assert recipe_for("topformer_b", "seg") == ExportRecipe(model="topformer_b", task="seg")
    assert recipe_for("topformer_b", "seg").input_size == (512, 512)
    with pytest.raises(UserError, match="topformer_b"):
        recipe_for("topformer_bb", "seg")
