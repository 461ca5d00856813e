from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs.check import op_histogram
from mscsa_deploy.graphs.pixels import take_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE = np.random.default_rng(0).integers(0, 256, (2, 7, 8, 3), dtype=np.uint8)
TEXTS = {
    "padded": "g (float[2,3,7,8] image) => (float[2,4,4,4] y) { y = Conv<pads=[1,1,1,1], strides=[2,2]>(image, w, b) }",
    "unpadded": "g (float[2,3,7,8] image) => (float[2,4,5,6] y) { y = Conv(image, w, b) }",
    "two_convolutions": "g (float[2,3,7,8] image) => (float[2,4,7,8] y) { p = Conv<pads=[1,1,1,1]>(image, w) "
    "q = Conv<pads=[1,1,1,1]>(image, v, b) y = Add(p, q) }",
    "something_else": "g (float[2,3,7,8] image) => (float[2,3,7,8] y) { y = Relu(image) }",
}
OPS_LEFT = {
    "padded": {"Cast", "Conv", "Sub", "Transpose"},
    "unpadded": {"Cast", "Conv", "Transpose"},
    "two_convolutions": {"Add", "Cast", "Conv", "Sub", "Transpose"},
    "something_else": {"Cast", "Mul", "Relu", "Sub", "Transpose"},
}


def result(model: ir.Model, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {"image": image})[0]


@pytest.mark.parametrize("name", TEXTS)
def test_pixels_give_what_normalized_pictures_gave(make, name) -> None:
    model = make(TEXTS[name], w=(4, 3, 3, 3), v=(4, 3, 3, 3), b=(4,))
    normal = ((PICTURE / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    expected = result(model, np.ascontiguousarray(normal))

    take_pixels(model, MEAN, STD)

    assert set(op_histogram(model)) == OPS_LEFT[name]
    # 27 products of pixels up to 255, with weights rounded once more.
    np.testing.assert_allclose(result(model, PICTURE), expected, atol=1e-4)


def test_padding_still_means_the_mean_color(make) -> None:
    model = make(TEXTS["padded"], w=np.ones((4, 3, 3, 3), np.float32), b=np.zeros(4, np.float32))
    take_pixels(model, MEAN, STD)

    gray = np.round(np.broadcast_to(np.array(MEAN) * 255, PICTURE.shape)).astype(np.uint8)

    # The mean color is within half a pixel step: 27 * 0.5 / 255 / 0.22.
    assert np.abs(result(model, gray)).max() < 0.25


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("g (uint8[2,7,8,3] image) => (uint8[2,7,8,3] y) { y = Identity(image) }", id="pixels_already"),
        pytest.param("g (float[2,1,7,8] image) => (float[2,1,7,8] y) { y = Relu(image) }", id="one_channel"),
        pytest.param(
            "g (float[1,3,2,2] image, float[1] z) => (float[1,3,2,2] y) { y = Add(image, z) }", id="two_inputs"
        ),
    ],
)
def test_other_inputs_are_refused(make, text) -> None:
    with pytest.raises(UserError, match="expected one float32 input"):
        take_pixels(make(text), MEAN, STD)
