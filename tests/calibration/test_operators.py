"""What INT8 does to each operator of our models on each runtime, and whether the list of what stayed float is true."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest

from mscsa_deploy.calibration.placement import BOOKKEEPING, MOVERS
from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import read_recipe
from mscsa_deploy.export.exporter import export_onnx
from mscsa_deploy.graphs.check import read_model, to_bytes
from mscsa_deploy.graphs.metadata import ModelInfo
from mscsa_deploy.graphs.passes import optimizations_for
from mscsa_deploy.graphs.rewrite import rewrite
from mscsa_deploy.models.randomize import randomize
from mscsa_deploy.models.spec import ModelOptions, build_model
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import SessionSettings

from .operators import BRANCHES, FOREIGN, feeds_for, model_of

pytest.importorskip("openvino", reason="pip install 'mscsa-deploy[quantize]'")
pytest.importorskip("nncf", reason="pip install 'mscsa-deploy[quantize]'")

RECIPES = ("int8_onnxruntime_x86", "int8_onnxruntime_portable", "int8_openvino", "int8_openvino_qdq")
# What else places differently. ONNX Runtime also runs the files for ARM and for TensorRT here, whose answers they give.
FURTHER = (
    *("int8_onnxruntime_x86_pvt", "int8_onnxruntime_arm64", "int8_tensorrt"),
    *("int8_openvino_portable", "int8_openvino_transformer"),
)
# Up to four roundings to 8 bits of the whole range of normal values (some 4 standard deviations either way): about
# 42 dB each. The least seen is 25, weights in 7 bits and bias correction from few pictures included. A kernel that
# sums wrongly leaves nothing: without its keep_float rule, AMX gives conv8_patch -1.5 dB.
FLOOR_DB = 20.0
ALL = {**BRANCHES, **FOREIGN}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By recipe: what `quantize` made of the graph of all operators, once."""
    folder = tmp_path_factory.mktemp("operators")
    onnx.save(model_of(ALL), str(folder / "float.onnx"))

    @cache
    def make(name):
        recipe = read_recipe(name.removesuffix("+all"))
        # Everything that has a place in the recipe, whatever its position; "all": everything there is.
        rules = tuple(rule for rule in recipe.keep_float if not rule.first_convs)
        changes = {"op_types": (), "keep_float": ()} if name.endswith("+all") else {"keep_float": rules}
        recipe = recipe.changed(name, **changes)
        out = folder / name / ("q.xml" if recipe.engine == "nncf" else "q.onnx")
        out.parent.mkdir()
        return quantize(folder / "float.onnx", feeds_for(ALL), recipe, out)

    return make


def decibels(wanted, found):
    """Signal to noise over all feeds; what is exact has next to no noise."""
    noise = sum(((one - two) ** 2).sum() for one, two in zip(wanted, found, strict=True))
    return 10 * np.log10(sum((one**2).sum() for one in wanted) / max(noise, 1e-30))


@pytest.fixture(scope="module")
def ratios(made):
    """By recipe: signal to quantization noise of every branch, in decibels."""
    feeds = list(feeds_for(ALL))
    plain = onnxruntime.InferenceSession(model_of(ALL).SerializeToString())
    names = [output.name for output in plain.get_outputs()]
    wanted = [dict(zip(names, plain.run(None, dict(feed)), strict=True)) for feed in feeds]

    @cache
    def measure(name):
        path = made(name).artifact.path
        runtime = RUNTIMES.load("onnxruntime" if name == "int8_tensorrt" else read_recipe(name).runtime)()
        with runtime.load(path, SessionSettings(threads=1)) as session:
            found = [session.run(feed) for feed in feeds]
        noise = {
            each: sum(((f[each] - w[each]) ** 2).sum() for f, w in zip(found, wanted, strict=True)) for each in names
        }
        signal = {each: sum((w[each] ** 2).sum() for w in wanted) for each in names}
        return {each.removesuffix(".y"): 10 * np.log10(signal[each] / max(noise[each], 1e-30)) for each in names}

    return measure


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("recipe", [*RECIPES, *FURTHER])
def test_int8_answers_like_float(ratios, recipe, branch):
    assert ratios(recipe)[branch] > FLOOR_DB


def kind_of(node, shapes):
    """What tells operators apart: the type; of convolutions also kernel, stride, rank and whether depthwise."""
    if node.op_type != "Conv":
        return (node.op_type,)
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    weight = shapes[node.input[1]]
    stride = attributes.get("strides", [1])[0]
    return ("Conv", weight[-1], stride, len(weight), attributes.get("group", 1) > 1)


def kinds_of(model):
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {kind_of(node, shapes) for node in model.graph.node if node.op_type not in BOOKKEEPING}


@pytest.mark.parametrize(("name", "task"), [("topformer_t_mscsa", "seg"), ("pvt_v2_b0_mscsa", "cls")])
def test_every_operator_of_our_models_is_among_the_tested(name, task, tmp_path):
    model = randomize(build_model(name, task, ModelOptions(num_classes=5)).eval(), seed=1, input_size=(64, 64))
    out = tmp_path / "model.onnx"
    told = ModelInfo(name=name, task=task, random_weights=1)
    export_onnx(model, name=name, task=task, input_size=(64, 64), batch=1, optimize=True, out=out, metadata=told)
    found = kinds_of(onnx.load(str(out)))
    for runtime in ("onnxruntime", "openvino"):
        tuned = read_model(out)
        rewrite(tuned, optimizations_for(runtime))
        found |= kinds_of(onnx.load_from_string(to_bytes(tuned)))
    assert found <= kinds_of(model_of(BRANCHES))


def said_float(quantized, branch):
    """Whether the list of what stayed float has the tested operator."""
    return any(left.node.startswith(f"{branch}.tested") for left in quantized.left_float)


def kernels_of_onnxruntime(path, folder):
    """By branch: the operators that ONNX Runtime executes, and whether each reads integers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "executed.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    integers, found = set(), {}
    for node in onnx.load(str(folder / "executed.onnx")).graph.node:
        reads = node.input[0] in integers or node.op_type in {"QLinearConcat", "QLinearWhere"}
        if node.op_type.startswith("Q") or (reads and node.op_type not in {"DequantizeLinear", "MatMulIntegerToFloat"}):
            integers.update(node.output)
        branches = [name.split(".")[0] for name in (*node.output, *node.input)]
        branch = next((name for name in branches if name in ALL), "")
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            found.setdefault(branch, []).append((node.op_type, bool(reads)))
    return found


@pytest.mark.parametrize("name", [*RECIPES[:2], "int8_onnxruntime_x86+all"])
def test_the_list_of_what_stayed_float_is_true_on_onnxruntime(made, tmp_path, name):
    quantized = made(name)
    executed = kernels_of_onnxruntime(quantized.artifact.path, tmp_path)
    said = {branch for branch in ALL if said_float(quantized, branch)}
    # One that is gone was fused into an integer kernel; one computed in float may be so under other names.
    true = {
        branch
        for branch, kernels in executed.items()
        if branch
        and (any(ALL[branch].op in op and not reads for op, reads in kernels) or not all(reads for _, reads in kernels))
    }
    assert said == true


def kernels_of_openvino(path):
    """Kernel and the data type it computes in, by the name of each operator it does."""
    with RUNTIMES.load("openvino")().load(path, SessionSettings(threads=1)) as session:
        rows = session._kernels().values()
    return {source: (row.op, row.precision) for row in rows for source in row.sources}


@pytest.mark.parametrize("name", RECIPES[2:])
def test_what_is_said_to_run_on_integers_does_on_openvino(made, name):
    quantized = made(name)
    executed = kernels_of_openvino(quantized.artifact.path)
    wrong = {
        branch: executed[f"{branch}.tested"]
        for branch in ALL
        # The list for IR leaves out what only moves values.
        if not (name == "int8_openvino" and ALL[branch].op in MOVERS)
        and not said_float(quantized, branch)
        and executed.get(f"{branch}.tested", ("", "int8"))[1] != "int8"
    }
    assert wrong == {}
