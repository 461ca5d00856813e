from __future__ import annotations

import pytest

from mscsa_deploy.calibration.recipe import (
    CalibrationRecipe,
    FloatRule,
    bf16_recipe,
    default_recipe,
    read_recipe,
    shipped_recipes,
)
from mscsa_deploy.core.shipped import shipped_names
from mscsa_deploy.errors import UserError

from .conftest import recipe


@pytest.mark.parametrize("name", shipped_names("calibration"))
def test_every_shipped_recipe_is_read(name):
    read = read_recipe(name)
    assert read.name == name
    assert read.summary.endswith(".")


@pytest.mark.parametrize("shipped", shipped_recipes(), ids=lambda each: each.name)
def test_full_range_weights_on_x86_say_that_they_require_vnni(shipped):
    elsewhere = shipped.runtime == "tensorrt" or set(shipped.architectures) == {"aarch64", "arm64"}
    assert elsewhere or shipped.reduce_range or shipped.requires == ("vnni",)


def test_the_names_that_deploy_relies_on_are_shipped():
    names = {read.name for read in shipped_recipes()}
    assert names >= {
        "int8_onnxruntime_x86",
        "int8_onnxruntime_arm64",
        "int8_onnxruntime_portable",
        "int8_openvino",
        "int8_tensorrt",
    }


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_a_written_recipe_reads_as_it_was(recipe, tmp_path):
    path = tmp_path / f"{recipe.name}.toml"
    path.write_text(recipe.toml())
    assert read_recipe(str(path)) == recipe


def test_an_unknown_key_is_refused_and_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nengine = "onnxruntime"\nruntime = "onnxruntime"\nobserverr = "minmax"\n')
    with pytest.raises(UserError, match="observerr"):
        CalibrationRecipe.read(path)


def test_a_name_unlike_the_file_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "other"\nengine = "onnxruntime"\nruntime = "onnxruntime"\n')
    with pytest.raises(UserError, match="expected 'mine'"):
        CalibrationRecipe.read(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('op_types = ["Conv", "gemm"]', "unknown ONNX operator 'gemm'; did you mean 'Gemm'"),
        ('op_types = ["Convv"]', "unknown ONNX operator 'Convv'; did you mean 'Conv'"),
        ('[[keep_float]]\nreason = "x"\nop_types = ["Matmul"]', "'Matmul'; did you mean 'MatMul'"),
        ('[[keep_float]]\nreason = "x"\nupstream_of = ["softmax"]', "'softmax'; did you mean 'Softmax'"),
        ('op_types = ["RELU"]', "unknown ONNX operator 'RELU'; did you mean 'Relu'"),
    ],
)
def test_an_operator_that_is_none_is_refused_with_the_nearest_name(tmp_path, line, said):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nengine = "onnxruntime"\nruntime = "onnxruntime"\n{line}\n')
    with pytest.raises(UserError) as caught:
        read_recipe(str(path))
    assert f"'{path}': " in str(caught.value)
    assert said in str(caught.value)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'int8_tensorrt'"):
        read_recipe("int8_tensort")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"samples": 0}, "samples", id="no samples"),
        pytest.param({"percentile": 0.99}, "percent", id="percentile as a share"),
        pytest.param({"activations": "int8", "weights": "uint8"}, "no engine", id="int8 with uint8"),
        pytest.param({"bias_correction": "fast"}, "nncf", id="NNCF's bias correction elsewhere"),
        pytest.param({"keep_float": [{"reason": "because"}]}, "needs", id="rule without condition"),
        pytest.param({"keep_float": [{"reason": " ", "op_types": ["Conv"]}]}, "reason", id="rule without reason"),
        pytest.param({"keep_float": [{"reason": "x", "nodes": ["("]}]}, "regular expression", id="bad pattern"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        recipe().changed("changed", **changes)


@pytest.mark.parametrize(
    ("engine", "key", "value"),
    [
        ("nncf", "activations", "int8"),
        ("nncf", "averaging", 0.5),
        ("nncf", "op_types", ("Conv",)),
        ("nncf", "quantize_bias", False),
        ("nncf", "pools_as_convs", True),
        ("nncf", "equalize", True),
        ("nncf", "rest", "fp16"),
        ("nncf", "bias_correction", "analytic"),
        ("onnxruntime", "preset", "mixed"),
        ("onnxruntime", "model_type", "transformer"),
        ("onnxruntime", "smooth_quant", 0.5),
        ("onnxruntime", "bias_correction", "fast"),
    ],
)
def test_a_key_that_the_engine_does_nothing_with_is_refused(engine, key, value):
    runtime = {"nncf": "openvino"}.get(engine, "onnxruntime")
    with pytest.raises(UserError, match="engine") as caught:
        recipe(engine=engine, runtime=runtime).changed("changed", **{key: value})
    assert key in str(caught.value)


def test_changed_replaces_settings_and_name_only():
    base = recipe(observer="minmax", keep_float=(FloatRule(reason="stem", first_convs=1),))
    changed = base.changed("other", observer="mse")
    assert (changed.name, changed.observer, changed.keep_float) == ("other", "mse", base.keep_float)


@pytest.mark.parametrize(
    ("runtime", "model", "architecture", "isa", "expected"),
    [
        ("onnxruntime", "topformer_t_mscsa.seg", "x86_64", {"avx512_vnni"}, "int8_onnxruntime_x86"),
        ("onnxruntime", "pvt_v2_b0_mscsa.cls", "x86_64", {"avx_vnni"}, "int8_onnxruntime_x86_pvt"),
        ("onnxruntime", "topformer_t_mscsa.seg", "x86_64", {"avx2"}, "int8_onnxruntime_portable"),
        ("onnxruntime", "topformer_t_mscsa.seg", "aarch64", set(), "int8_onnxruntime_arm64"),
        ("openvino", "topformer_t_mscsa.seg", "x86_64", {"avx512_vnni"}, "int8_openvino"),
        ("openvino", "topformer_t_mscsa.cls", "x86_64", {"avx512_vnni"}, "int8_openvino_topformer_cls"),
        ("openvino", "pvt_v2_b0_mscsa.cls", "x86_64", {"avx512_vnni"}, "int8_openvino_transformer"),
        ("openvino", "topformer_t_mscsa.seg", "x86_64", {"avx2"}, "int8_openvino_portable"),
        ("openvino", "topformer_t_mscsa.seg", "aarch64", set(), "int8_openvino_portable"),
        ("tensorrt", "anything", "aarch64", set(), "int8_tensorrt"),
    ],
)
def test_the_default_recipe_fits_device_and_model(runtime, model, architecture, isa, expected):
    assert default_recipe(runtime, model=model, architecture=architecture, isa=isa).name == expected


def test_a_recipe_made_for_a_bf16_rest_stands_beside_the_default_one():
    device = {"architecture": "x86_64", "isa": {"avx512_vnni", "amx_bf16"}}
    found = bf16_recipe("openvino", model="topformer_t_mscsa.seg", **device)
    assert found.name == "int8_openvino_topformer"
    assert bf16_recipe("openvino", model="pvt_v2_b0_mscsa.cls", **device) is None
    assert bf16_recipe("openvino", model="topformer_t_mscsa.seg", architecture="x86_64", isa={"avx2"}) is None
    assert bf16_recipe("openvino", model="topformer_t_mscsa.cls", **device) is None


@pytest.mark.parametrize("operator", ["FusedConv", "SkipLayerNormalization", "BiasGelu", "Zzz"])
def test_an_operator_of_another_domain_may_be_named(tmp_path, operator):
    path = tmp_path / "mine.toml"
    rule = f'[[keep_float]]\nreason = "x"\nop_types = ["{operator}"]\n'
    path.write_text(f'name = "mine"\nengine = "onnxruntime"\nruntime = "onnxruntime"\n{rule}')
    assert read_recipe(str(path)).keep_float[0].op_types == (operator,)
