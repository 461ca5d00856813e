"""Upsampling and argmax inside a graph: every form gives the class map of the plain one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.graphs.check import to_bytes
from mscsa_deploy.graphs.tail.choose import check_pixels
from mscsa_deploy.graphs.tail.forms import (
    DEFAULT_FORMS,
    REFERENCE_FORM,
    TAIL_FORMS,
    append_tail,
    default_form,
    forms_for,
)
from mscsa_deploy.graphs.tail.grid import TailShape, axis_matrix, cell_weights

OTHERS = [name for name in TAIL_FORMS if name != REFERENCE_FORM]


def logits_model(shape) -> ir.Model:
    dims = ",".join("N" if size == -1 else str(size) for size in shape)
    text = (
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[{dims}] x) => (float[{dims}] logits) {{ logits = Neg(x) }}'
    )
    return ir.from_proto(onnx.parser.parse_model(text))


def class_map(form: str, logits: np.ndarray, scale: int, *, dynamic: bool = False) -> np.ndarray:
    shape = (-1, *logits.shape[1:]) if dynamic else logits.shape
    model = logits_model(shape)
    append_tail(model, form, (logits.shape[2] * scale, logits.shape[3] * scale))
    data = to_bytes(model)
    onnx.checker.check_model(data, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(["classmap"], {"x": -logits})[0]


def smooth(shape, winners: int, seed: int) -> np.ndarray:
    """Logits in which `winners` classes win somewhere, in regions a few cells wide."""
    generator = np.random.default_rng(seed)
    batch, classes, height, width = shape
    seeds = generator.uniform(0, max(height, width), (batch, winners, 2))
    where = np.stack(np.mgrid[:height, :width], axis=-1)
    distance = np.linalg.norm(where[None, None] - seeds[:, :, None, None], axis=-1)
    logits = generator.standard_normal(shape) - 4
    logits[:, generator.permutation(classes)[:winners]] += 8 - distance
    return logits.astype(np.float32)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.sampled_from([2, 3, 4, 5, 8]),
    seed=st.integers(0, 1000),
    flat=st.booleans(),
    form=st.sampled_from(OTHERS),
)
def test_every_form_gives_the_plain_class_map(  # noqa: PLR0917 - hypothesis names them
    batch, classes, height, width, scale, seed, flat, form
) -> None:
    shape = (batch, classes, height, width)
    # Noise wins everywhere with all classes; smooth regions are what trained models give.
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    logits = noise if flat else smooth(shape, max(1, classes // 2), seed)

    result = check_pixels(logits, class_map(REFERENCE_FORM, logits, scale), class_map(form, logits, scale))

    assert result.equal
    # Two random logits agree up to rounding about once in a million pixels.
    assert result.ties <= 1


@pytest.mark.parametrize("form", OTHERS)
@pytest.mark.parametrize("winners", [1, 8, 150])
def test_forms_agree_on_150_classes(form, winners) -> None:
    logits = smooth((1, 150, 16, 16), winners, seed=winners)

    result = check_pixels(logits, class_map(REFERENCE_FORM, logits, 8), class_map(form, logits, 8))

    assert result.equal
    assert result.ties <= 1


@pytest.mark.parametrize("form", OTHERS)
def test_equal_logits_give_the_lowest_class(form) -> None:
    logits = np.zeros((1, 7, 4, 4), np.float32)

    assert not class_map(form, logits, 4).any()


def test_one_class_that_wins_everywhere_leaves_no_cell_to_decide() -> None:
    logits = np.zeros((1, 9, 5, 5), np.float32)
    logits[:, 6] = 1

    assert (class_map("cells", logits, 4) == 6).all()


def test_plain_form_is_resize_then_argmax() -> None:
    logits = np.random.default_rng(3).standard_normal((2, 5, 3, 4)).astype(np.float32)
    tall, wide = axis_matrix(3, 4), axis_matrix(4, 4)
    expected = np.einsum("yh,nchw,xw->ncyx", tall, logits, wide).argmax(axis=1)

    np.testing.assert_array_equal(class_map(REFERENCE_FORM, logits, 4), expected)


def test_more_than_256_classes_need_uint16() -> None:
    logits = np.zeros((1, 300, 2, 2), np.float32)
    logits[:, 299] = 1

    for form in TAIL_FORMS:
        found = class_map(form, logits, 2)
        assert found.dtype == np.uint16
        assert (found == 299).all()


@pytest.mark.parametrize("form", [name for name, form in TAIL_FORMS.items() if form.dynamic_batch])
def test_forms_with_a_free_batch_run_any_batch(form) -> None:
    logits = smooth((3, 12, 5, 5), 6, seed=1)

    result = check_pixels(logits, class_map(REFERENCE_FORM, logits, 4), class_map(form, logits, 4, dynamic=True))

    assert result.equal


def test_form_that_needs_a_fixed_batch_says_so() -> None:
    with pytest.raises(UnsupportedError, match="fixed batch"):
        append_tail(logits_model((-1, 5, 4, 4)), "cells", (16, 16))


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'cells'"):
        append_tail(logits_model((1, 5, 4, 4)), "cell", (16, 16))
    with pytest.raises(UserError, match="one whole factor"):
        append_tail(logits_model((1, 5, 4, 4)), "plain", (16, 20))


def test_static_runtimes_are_offered_static_forms_only() -> None:
    names = forms_for(static_shapes=True, dynamic_batch=False)

    assert REFERENCE_FORM in names
    assert "cells" not in names
    for name in names:
        model = logits_model((1, 5, 4, 4))
        append_tail(model, name, (16, 16))
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True, data_prop=True)
        sizes = [dim for value in inferred.graph.value_info for dim in value.type.tensor_type.shape.dim]
        assert all(dim.HasField("dim_value") for dim in sizes)


def test_weights_of_a_cell_sum_to_one() -> None:
    for scale in (2, 3, 4, 8):
        np.testing.assert_allclose(cell_weights(scale).sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("form", TAIL_FORMS)
def test_quantized_logits_load_in_onnx_runtime(tmp_path, form) -> None:
    # In a process of its own: where it goes wrong, ONNX Runtime aborts.
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[1,5,4,6] x) => (float[1,5,4,6] logits)
    <float scale = {0.05}, uint8 zero = {128}>
    { q = QuantizeLinear(x, scale, zero) logits = DequantizeLinear(q, scale, zero) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    append_tail(model, form, (16, 24))
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(model))
    code = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-300:]


def test_default_forms_are_known_and_fit_their_runtime() -> None:
    assert set(DEFAULT_FORMS.values()) <= set(TAIL_FORMS)
    assert TAIL_FORMS[DEFAULT_FORMS["tensorrt"]].static_shapes


@pytest.mark.parametrize("runtime", [None, *DEFAULT_FORMS])
@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("opset", [13, 18])
def test_default_form_fits_batch_and_opset(runtime, dynamic_batch, opset) -> None:
    fitting = forms_for(static_shapes=runtime == "tensorrt", dynamic_batch=dynamic_batch, opset=opset)

    assert default_form(runtime, dynamic_batch=dynamic_batch, opset=opset) in fitting


@pytest.mark.parametrize("form", TAIL_FORMS)
def test_form_is_valid_at_its_oldest_opset_and_refused_below(form) -> None:
    model = logits_model((1, 5, 4, 4))
    model.opset_imports[""] = TAIL_FORMS[form].oldest_opset
    append_tail(model, form, (16, 16))
    onnx.checker.check_model(to_bytes(model), full_check=True)

    older = logits_model((1, 5, 4, 4))
    older.opset_imports[""] = TAIL_FORMS[form].oldest_opset - 1
    with pytest.raises(UserError, match="needs opset"):
        append_tail(older, form, (16, 16))


def test_pixel_check_tells_ties_from_errors() -> None:
    logits = np.zeros((1, 3, 2, 2), np.float32)
    logits[0, 1] = 1.0
    logits[0, 2] = 1.0
    reference = np.full((1, 4, 4), 1, np.uint8)
    tied, wrong = reference.copy(), reference.copy()
    tied[0, 0, 0] = 2
    wrong[0, 0, 0] = 0

    assert check_pixels(logits, reference, tied).equal
    assert not check_pixels(logits, reference, wrong).equal


def test_shape_of_the_tail() -> None:
    shape = TailShape.between((1, 3, 4, 5), (32, 40))

    assert (shape.scale, shape.size, shape.cells) == (8, (32, 40), 30)


def test_fifth_class_wins_the_middle_of_a_cell() -> None:
    # Four classes win a corner each; the fifth is the highest nowhere but between them.
    logits = np.full((1, 150, 2, 2), -1, np.float32)
    for number, corner in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        logits[0, number] = 0
        logits[0, number][corner] = 1
    logits[0, 99] = 0.4
    reference = class_map(REFERENCE_FORM, logits, 8)
    assert reference[0, 8, 8] == 99

    np.testing.assert_array_equal(class_map("cells", logits, 8), reference)
