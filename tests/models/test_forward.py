"""Every model at small sizes: shapes, freedom from batch effects, tracing, and gradients."""

import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mscsa_deploy.core.vocabulary import TASKS
from mscsa_deploy.models.layers import adaptive_pool, conv_bn, pool_matrix, resize_bilinear
from mscsa_deploy.models.randomize import randomize
from mscsa_deploy.models.spec import MODEL_NAMES, ModelOptions, build_model, model_spec

ALL = [(name, task) for name in MODEL_NAMES for task in TASKS]
SMALL = [each for each in ALL if each[0] in ("topformer_t", "topformer_t_mscsa", "pvt_v2_b0", "pvt_v2_b0_mscsa")]


@pytest.mark.parametrize(("name", "task"), ALL)
def test_logits_have_the_declared_shape(name, task):
    model = build_model(name, task, ModelOptions(num_classes=7)).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 96))
    stride = model_spec(name, task).output_stride
    assert tuple(logits.shape) == ((2, 7) if task == "cls" else (2, 7, 64 // stride, 96 // stride))
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(("name", "task"), SMALL)
@pytest.mark.parametrize("size", [(64, 64), (96, 352)])
def test_any_legal_size_is_taken(name, task, size):
    with torch.device("meta"):
        model = build_model(name, task).eval()
        logits = model(torch.empty(1, 3, *size))
    stride = model_spec(name, task).output_stride
    assert tuple(logits.shape[2:]) == (() if task == "cls" else (size[0] // stride, size[1] // stride))


@pytest.mark.parametrize("name", ["topformer_b_mscsa", "pvt_v2_b2_mscsa"])
def test_the_largest_size_is_taken(name):
    with torch.device("meta"):
        model = build_model(name, "seg").eval()
        logits = model(torch.empty(1, 3, 2048, 1056))
    stride = model_spec(name, "seg").output_stride
    assert tuple(logits.shape) == (1, 150, 2048 // stride, 1056 // stride)


@pytest.mark.parametrize(("name", "task"), SMALL)
def test_an_image_is_judged_alone(name, task):
    model = randomize(build_model(name, task, ModelOptions(num_classes=5)).eval(), 1, (64, 96))
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    # Same arithmetic in another order: some 1e-6 of the range in float32.
    assert float((together - alone).abs().max() / (alone.max() - alone.min())) < 1e-5


@pytest.mark.parametrize(("name", "task"), SMALL)
def test_every_parameter_learns(name, task):
    model = build_model(name, task, ModelOptions(num_classes=5)).train()
    model(torch.randn(4, 3, 128, 96)).square().mean().backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    # A bias before a BatchNorm has no effect; drop-path may drop the last blocks of one small batch.
    idle = [key for key in idle if not key.endswith("fc1.bias")]
    assert idle == []


@pytest.mark.parametrize(("name", "task"), [("topformer_t", "cls"), *SMALL[2:4], ("pvt_v2_b0_mscsa", "seg")])
def test_a_trace_holds_standard_operators_and_warns_of_nothing(name, task):
    onnx = pytest.importorskip("onnx")
    model = randomize(build_model(name, task, ModelOptions(num_classes=5)).eval(), 1, (96, 64))
    stream = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(model, (torch.randn(1, 3, 96, 64),), stream, opset_version=18, dynamo=False)
    assert not [each for each in caught if issubclass(each.category, torch.jit.TracerWarning)]
    graph = onnx.load_from_string(stream.getvalue()).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    # Shape arithmetic may stand only before a Resize, whose size the exporter computes.
    assert {node.op_type for node in graph.node}.isdisjoint({"Gather", "If", "Loop", "GlobalAveragePool", "Range"})


def test_tracing_at_the_reference_size_pools_with_average_pool_only():
    model = build_model("topformer_t_mscsa", "seg").eval()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.randn(1, 3, 512, 512),), stream, opset_version=18, dynamo=False)
    onnx = pytest.importorskip("onnx")
    kinds = [node.op_type for node in onnx.load_from_string(stream.getvalue()).graph.node]
    assert kinds.count("AveragePool") == 4
    assert kinds.count("MatMul") == 2 * 4  # four attentions of two products, none for pooling


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_pooling_equals_adaptive_average_pooling(height, width, rows, columns):
    x = torch.randn(2, 3, height, width)
    want = F.adaptive_avg_pool2d(x, (rows, columns))
    # Sums of at most 1600 unit normals in float32.
    torch.testing.assert_close(adaptive_pool(x, (rows, columns)), want, atol=2e-6, rtol=1e-5)


@given(st.integers(1, 64), st.integers(1, 64))
def test_pooling_rows_are_averages(source, target):
    matrix = pool_matrix(source, target)
    assert matrix.shape == (target, source)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(target))
    if target <= source:
        assert bool((matrix.sum(dim=0) > 0).all())


def test_resizing_to_the_same_size_changes_nothing():
    x = torch.randn(1, 2, 5, 7)
    assert resize_bilinear(x, (5, 7)) is x


def test_conv_bn_keeps_size_and_names():
    layer = conv_bn(4, 6, 5, name="c", act=torch.nn.ReLU())
    assert [name for name, _ in layer.named_children()] == ["c", "bn", "activate"]
    assert layer(torch.randn(2, 4, 9, 11)).shape == (2, 6, 9, 11)


def test_random_models_repeat_and_are_well_conditioned():
    one, two = (randomize(build_model("topformer_b_mscsa", "seg"), 1, (128, 160)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.training
    image = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        single, double = one.eval()(image), two.eval().double()(image.double())
    # Well below the 1e-4 that exported models must meet; an ill-conditioned net is above it.
    assert float((single - double).abs().max() / (double.max() - double.min())) < 2e-5
    variances = torch.cat([value for key, value in one.state_dict().items() if key.endswith("running_var")])
    assert float(variances.std() / variances.mean()) > 0.1


def test_different_seeds_make_different_models():
    one, two = (randomize(build_model("topformer_t", "cls"), seed, (64, 64)) for seed in (1, 2))
    assert not torch.equal(one.backbone.tpm.stem[0].c.weight, two.backbone.tpm.stem[0].c.weight)


def test_fresh_models_follow_the_stated_initialization():
    model = build_model("pvt_v2_b1_mscsa", "cls")
    state = model.state_dict()
    # N(0, sqrt(2 / fan_out)): 320 output channels of a 1x1 convolution; 3 % covers the sampling error.
    assert float(state["backbone.mscsa.squeeze.3.weight"].std()) == pytest.approx((2 / 320) ** 0.5, rel=0.03)
    assert float(state["head.weight"].std()) == pytest.approx(0.02, rel=0.03)
    assert bool((state["backbone.mscsa.norm.weight"] == 1).all())
    assert bool((state["head.bias"] == 0).all())


def test_dropping_paths_keeps_the_mean_and_stops_in_eval():
    from mscsa_deploy.models.layers import DropPath

    layer, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert bool((out[:, 0] == out[:, 1]).all())
    # 4000 draws with probability 0.75: a standard error of 0.9 %, here five of them.
    assert float(out.mean()) == pytest.approx(1.0, abs=0.046)
    assert layer.eval()(x) is x
