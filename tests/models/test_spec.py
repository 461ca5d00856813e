import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mscsa_deploy.core.vocabulary import TASKS
from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.models.spec import (
    MODEL_NAMES,
    ModelOptions,
    build_model,
    check_options,
    check_size,
    model_spec,
    options_from,
    options_to_json,
)


def test_names_are_found_without_importing_torch():
    code = "import sys; from mscsa_deploy.models.spec import model_spec as m; m('topformer_t', 'seg'); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ten_models_for_two_tasks():
    assert len(MODEL_NAMES) == 10
    specs = [model_spec(name, task) for name in MODEL_NAMES for task in TASKS]
    assert {spec.family for spec in specs} == {"topformer", "pvt_v2"}
    assert sum(spec.mscsa for spec in specs) == 10


def test_unknown_model_offers_the_nearest():
    with pytest.raises(UserError, match="unknown model 'topformr_t'; did you mean 'topformer_t'"):
        model_spec("topformr_t", "seg")


def test_unknown_task_is_refused():
    with pytest.raises(UserError, match="unknown task 'det'"):
        model_spec("topformer_t", "det")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ffn_act": "relu"}, "unknown ffn_act 'relu'; did you mean 'relu6'"),
        ({"dw_kernels": (3, 4)}, "dw_kernels is"),
        ({"dw_kernels": (3, 5, 7)}, "dw_kernels is"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"key_dim": -1}, "key_dim is -1"),
    ],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        ModelOptions(**values)


@pytest.mark.parametrize(
    ("name", "task", "options", "message"),
    [
        ("topformer_t", "seg", {"ffn_act": "gelu"}, "no MSCSA module, so ffn_act"),
        ("pvt_v2_b0", "cls", {"gate_at": "high", "dw_kernels": (3, 3)}, "so gate_at, dw_kernels cannot"),
        ("topformer_t_mscsa", "cls", {"cls_head": "concat"}, "does not apply"),
        ("pvt_v2_b0_mscsa", "seg", {"cls_head": "concat"}, "does not apply"),
        ("pvt_v2_b0_mscsa", "cls", {"gate_at": "high"}, "no fusion gate"),
    ],
)
def test_options_a_model_does_not_have_are_refused(name, task, options, message):
    with pytest.raises(UserError, match=message):
        build_model(name, task, ModelOptions(**options))


def test_class_count_applies_to_every_model():
    for name in MODEL_NAMES:
        for task in TASKS:
            check_options(model_spec(name, task), ModelOptions(num_classes=7))


def test_options_survive_json():
    options = ModelOptions(num_classes=13, ffn_act="gelu", dw_kernels=(3, 7), multi_scale=False, key_dim=16)
    assert options_from(json.loads(options_to_json(options))) == options
    assert options_to_json(options) == options_to_json(dataclasses.replace(options))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ffn_activation": "gelu"}, "'r.toml': unknown model option 'ffn_activation'"),
        ({"num_classes": "many"}, "'r.toml': Expected `int | null`"),
        ({"dw_kernels": [3]}, "'r.toml'"),
    ],
)
def test_options_of_a_file_name_the_file(values, message):
    with pytest.raises(UserError, match=message):
        options_from(values, source="r.toml")


@given(st.integers(2, 64), st.integers(2, 64))
def test_legal_sizes_pass(height, width):
    check_size((32 * height, 32 * width))


@given(st.integers(-100, 5000), st.integers(-100, 5000))
def test_other_sizes_are_refused_with_a_legal_neighbor(height, width):
    legal = all(64 <= side <= 2048 and side % 32 == 0 for side in (height, width))
    if legal:
        return
    with pytest.raises(SpecError) as caught:
        check_size((height, width))
    nearest = tuple(int(side) for side in caught.value.hint.rsplit(" ", 1)[1].split("x"))
    check_size(nearest)
    for side, near in zip((height, width), nearest, strict=True):
        assert abs(side - near) <= 16 or near in (64, 2048)
