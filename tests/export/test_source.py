from __future__ import annotations

import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.export import source
from mscsa_deploy.export.source import resolve_model_argument


@pytest.fixture(autouse=True)
def _no_weights_needed(monkeypatch, tmp_path):
    # Whether the trained weights lie in this checkout is not what these tests are about.
    monkeypatch.setattr(source, "weights_path", lambda _: tmp_path / "weights")
    monkeypatch.chdir(tmp_path)


def test_zoo_name_and_task_mean_the_shipped_recipe() -> None:
    found = resolve_model_argument("topformer_t_mscsa", task="seg")
    assert (found.kind, found.name) == ("recipe", "topformer_t_mscsa.seg")
    assert found.recipe is not None
    assert found.recipe.num_classes == 13
    assert found.weights is not None


def test_zoo_name_alone_means_the_task_with_trained_weights() -> None:
    assert resolve_model_argument("topformer_t_mscsa").name == "topformer_t_mscsa.seg"


def test_zoo_name_without_trained_weights_needs_the_task() -> None:
    with pytest.raises(UserError, match="--task cls or --task seg"):
        resolve_model_argument("pvt_v2_b1")


def test_zoo_name_without_recipe_means_defaults() -> None:
    found = resolve_model_argument("pvt_v2_b1", task="cls")
    assert found.path is None
    assert found.recipe is not None
    assert (found.recipe.model, found.recipe.num_classes) == ("pvt_v2_b1", None)


def test_own_weights_do_not_get_the_labels_of_the_shipped_ones() -> None:
    found = resolve_model_argument("topformer_t_mscsa", task="seg", own_weights=True)
    assert found.recipe is not None
    assert (found.recipe.labels, found.recipe.num_classes, found.weights) == ((), None, None)


@pytest.mark.parametrize(
    "argument", ["topformer_t_mscsa.seg", "topformer_t_mscsa.seg.toml", "export/topformer_t_mscsa.seg.toml"]
)
def test_recipe_is_found_by_bare_name(argument: str) -> None:
    assert resolve_model_argument(argument).name == "topformer_t_mscsa.seg"


def test_recipe_file_of_the_user(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text('model = "topformer_b"\ntask = "cls"\n')
    found = resolve_model_argument("mine.toml")
    assert (found.kind, found.name) == ("recipe", "mine")


def test_recipe_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match="is for task seg, but --task is cls"):
        resolve_model_argument("topformer_t_mscsa.seg", task="cls")


def test_onnx_file(tmp_path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    assert resolve_model_argument("net.onnx").kind == "onnx"
    with pytest.raises(UserError, match=r"there is no file 'nett\.onnx'"):
        resolve_model_argument("nett.onnx")


def test_bundle_directory(tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(UserError, match=r"a directory without manifest\.json"):
        resolve_model_argument("out")
    (folder / "manifest.json").write_text("{}")
    assert resolve_model_argument("out").kind == "bundle"


def test_checkpoint_is_sent_to_its_option() -> None:
    with pytest.raises(UserError, match=r"--checkpoint weights\.pth"):
        resolve_model_argument("weights.pth")


def test_other_file_is_refused(tmp_path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match="no model that this tool reads"):
        resolve_model_argument("notes")


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'topformer_t_mscsa'"):
        resolve_model_argument("topformer_t_mcsa")
