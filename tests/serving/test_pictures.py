"""Pictures straight in: the model's own preprocessing, every form of answer, and nothing harmful past the door."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.runner import load
from mscsa_deploy.serving.settings import Limits


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_class_map_of_a_picture_equals_runner(client, bundles, tiny, kind):
    data = tiny.picture(tiny.scene(), kind)
    answer = client.picture(data, answer="class_map")
    assert answer.headers["content-type"] == "image/png"
    with load(bundles["seg"]) as runner:
        expected = runner.predict(data).class_map
    np.testing.assert_array_equal(opened(answer.body), expected)


def test_json_answer_lists_classes_with_shares_and_colors(client, tiny):
    answer = client.picture(tiny.picture(tiny.scene()))
    assert answer.json["task"] == "seg"
    assert (answer.json["height"], answer.json["width"]) == (96, 160)
    assert {item["label"] for item in answer.json["classes"]} == {"red", "green", "blue"}
    assert sum(item["share"] for item in answer.json["classes"]) == pytest.approx(1.0)
    assert next(item for item in answer.json["classes"] if item["label"] == "blue")["color"] == [0, 0, 255]
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(parts) == {"queue", "prepare", "network", "answer"}


def test_json_answer_of_classification_equals_runner(client, bundles, tiny):
    data = tiny.picture(tiny.scene(50, 70))
    answer = client.picture(data, model="color")
    with load(bundles["cls"]) as runner:
        top = runner.predict(data).top
    assert [(item["label"], item["probability"]) for item in answer.json["classes"]] == [
        (item.label, item.probability) for item in top
    ]


def test_overlay_is_the_picture_tinted(client, tiny):
    gray = np.full((60, 80, 3), 128, np.uint8)
    gray[:, 40:, 2] = 255
    tinted = opened(client.picture(tiny.picture(gray), answer="overlay").body)
    assert tinted.shape == (60, 80, 3)
    assert tinted[30, 70].tolist() != gray[30, 70].tolist()


@pytest.mark.parametrize("answer", ["class_map", "overlay"])
def test_segmentation_answers_of_a_classifier_refused(client, tiny, answer):
    found = client.picture(tiny.picture(tiny.scene()), answer=answer, model="color")
    assert found.status == 400
    assert "classifies" in found.error


def test_unknown_answer_is_told(client, tiny):
    assert "json, class_map, overlay" in client.picture(tiny.picture(tiny.scene()), answer="mask").error


def test_infer_takes_pixels_picture_and_base64_alike(client, bundles, tiny):
    image = tiny.scene()
    data = tiny.picture(image)
    with load(bundles["seg"]) as runner:
        expected = runner.predict(image).class_map
    outputs = [{"name": "class_map"}]
    requests = {
        "pixels": (image.tobytes(), {"name": "pixels", "datatype": "UINT8", "shape": list(image.shape)}),
        "picture": (struct.pack("<I", len(data)) + data, {"name": "picture", "datatype": "BYTES", "shape": [1]}),
    }
    for tail, item in requests.values():
        message = {"inputs": [item | {"parameters": {"binary_data_size": len(tail)}}], "outputs": outputs}
        found = client.infer(message, tail).json["outputs"][0]
        np.testing.assert_array_equal(np.reshape(found["data"], found["shape"])[0], expected)
    item = requests["picture"][1] | {"data": [base64.b64encode(data).decode()]}
    found = client.infer({"inputs": [item], "outputs": outputs}).json["outputs"][0]
    assert found["datatype"] == "UINT8"
    np.testing.assert_array_equal(np.reshape(found["data"], found["shape"])[0], expected)


def test_overlay_output_needs_binary(client, tiny):
    image = tiny.scene()
    item = {"name": "pixels", "datatype": "UINT8", "shape": list(image.shape)}
    item["parameters"] = {"binary_data_size": image.nbytes}
    wanted = {"name": "overlay", "parameters": {"binary_data": True}}
    refused = client.infer({"inputs": [item], "outputs": [{"name": "overlay"}]}, image.tobytes())
    assert "binary_data = true" in refused.error
    answer = client.infer({"inputs": [item], "outputs": [wanted]}, image.tobytes())
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.body[:length])["outputs"][0]["datatype"] == "BYTES"
    assert opened(answer.body[length + 4 :]).shape == image.shape


def png_header(width, height):
    """A PNG that declares a size and holds next to nothing."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 64))]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (40_000_001, 1)])
def test_decompression_bomb_is_refused_before_it_is_decoded(client, size):
    answer = client.picture(png_header(*size))
    assert answer.status in (400, 413)
    assert "pixels" in answer.error or "damaged" in answer.error


def test_pixels_over_the_limit_refused(bundles, serve, tiny):
    with serve(bundles["seg"], limits=Limits(pixels=100)) as client:
        assert client.picture(tiny.picture(tiny.scene())).status == 413
        image = tiny.scene()
        item = {"name": "pixels", "datatype": "UINT8", "shape": list(image.shape)}
        item["parameters"] = {"binary_data_size": image.nbytes}
        assert client.infer({"inputs": [item]}, image.tobytes()).status == 413


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"hello", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415),
        (b"8BPS\0\1", 415),
        (b"<svg/>", 415),
        (b"\x89PNG\r\n\x1a\n", 400),
        (b"\xff\xd8\xff\xe0", 400),
        (b"GIF89a", 400),
        (b"BM", 400),
        (b"RIFF\0\0\0\0WEBP", 400),
        (b"II*\0\x08\0\0\0", 400),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_bytes_that_are_no_whole_picture_refused(client, data, status):
    answer = client.picture(data)
    assert answer.status == status
    assert answer.error


def test_cut_picture_refused(client, tiny):
    data = tiny.picture(tiny.scene(), "JPEG")
    for length in (10, 100, len(data) // 2):
        answer = client.picture(data[:length])
        assert answer.status == 400
        assert "damaged" in answer.error or "not a readable picture" in answer.error


def test_picture_of_other_media_type_refused(client, tiny):
    assert client.picture(tiny.picture(tiny.scene()), content_type="application/json").status == 415


def test_body_over_the_limit_refused(bundles, serve):
    with serve(bundles["seg"], limits=Limits(body_bytes=1000)) as client:
        assert client.picture(b"x" * 1001).status == 413
        chunked = client("POST", "/v2/models/colors/picture", iter([b"x" * 600] * 2), content_type="image/png")
        assert chunked.status == 413
        assert "at most 1000" in chunked.error


def test_bodies_over_the_limit_together_refused(bundles, serve):
    with serve(bundles["seg"], limits=Limits(in_flight_bytes=1000)) as client:
        answer = client.picture(b"x" * 1001)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert client.picture(b"x" * 10).status == 415
