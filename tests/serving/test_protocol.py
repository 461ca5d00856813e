"""The protocol by hand: metadata, health, JSON and binary tensors, and an error for every way to be wrong."""

from __future__ import annotations

import json
import re
import struct

import numpy as np
import pytest

from mscsa_deploy.runner import load
from mscsa_deploy.serving.datatypes import to_binary
from mscsa_deploy.serving.refusal import Refusal

SHAPE = [1, 3, 64, 64]


@pytest.fixture(scope="module")
def tensor():
    return np.random.default_rng(5).random(SHAPE, dtype=np.float32)


def binary_request(array, datatype="FP32", name="image", outputs=("class_map", "logits"), **more):
    data = array.tobytes()
    inputs = [{"name": name, "datatype": datatype, "shape": list(array.shape)}]
    inputs[0]["parameters"] = {"binary_data_size": len(data)}
    wanted = [{"name": output, "parameters": {"binary_data": True}} for output in outputs]
    return {"inputs": inputs, "outputs": wanted, **more}, data


def binary_outputs(answer):
    length = int(answer.headers["inference-header-content-length"])
    head, tail = json.loads(answer.body[:length]), answer.body[length:]
    dtypes = {"FP32": "<f4", "UINT8": "u1"}
    found = {}
    for output in head["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(tail[:size], dtypes[output["datatype"]]).reshape(output["shape"])
        tail = tail[size:]
    assert tail == b""
    return head, found


def test_metadata_names_server_models_and_versions(client):
    assert client.get("/v2").json["name"] == "mscsa-deploy"
    assert "binary_tensor_data" in client.get("/v2/").json["extensions"]
    model = client.get("/v2/models/colors").json
    assert model["versions"] == ["1"]
    assert {item["name"] for item in model["inputs"]} == {"image", "pixels", "picture"}
    assert model["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": SHAPE}
    assert {item["name"] for item in model["outputs"]} == {"class_map", "logits", "probabilities", "overlay"}
    index = client("POST", "/v2/repository/index", b"{}").json
    assert {item["name"] for item in index} == {"colors", "color", "batch"}


@pytest.mark.parametrize(
    "path", ["health/live", "health/ready", "models/colors/ready", "models/colors/versions/1", "repository/index"]
)
def test_get_answers(client, path):
    assert client.get(f"/v2/{path}").status == 200


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_infer_json_equals_runner(client, bundles, tensor, nested):
    data = tensor.tolist() if nested else tensor.ravel().tolist()
    message = {"id": "7", "inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE, "data": data}]}
    answer = client.infer(message)
    assert answer.status == 200
    assert (answer.json["id"], answer.json["model_name"], answer.json["model_version"]) == ("7", "colors", "1")
    found = {item["name"]: np.array(item["data"]).reshape(item["shape"]) for item in answer.json["outputs"]}
    with load(bundles["seg"]) as runner:
        logits = runner.run(tensor)
        classes, _ = runner.answer(logits, (64, 64))
    # JSON writes the shortest decimal of each float32 as float64 holds it: no digit is lost
    np.testing.assert_array_equal(found["logits"].astype(np.float32), logits)
    np.testing.assert_array_equal(found["class_map"], classes[None])


def test_infer_binary_equals_runner(client, bundles, tensor):
    head, found = binary_outputs(client.infer(*binary_request(tensor)))
    assert [item["name"] for item in head["outputs"]] == ["class_map", "logits"]
    with load(bundles["seg"]) as runner:
        logits = runner.run(tensor)
        classes, _ = runner.answer(logits, (64, 64))
    np.testing.assert_array_equal(found["logits"], logits)
    np.testing.assert_array_equal(found["class_map"][0], classes)


def test_infer_binary_data_output_parameter_holds_for_all(client, tensor):
    message, data = binary_request(tensor, outputs=())
    message["parameters"] = {"binary_data_output": True}
    _, found = binary_outputs(client.infer(message, data))
    assert set(found) == {"class_map", "logits"}


def test_infer_probabilities_sum_to_one(client, tensor):
    _, found = binary_outputs(client.infer(*binary_request(tensor, outputs=["probabilities", "logits"])))
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found["probabilities"].argmax(1), found["logits"].argmax(1))


def test_infer_batch_where_the_artifact_allows(client, tensor):
    batch = np.concatenate([tensor, tensor[:, ::-1], 1 - tensor])
    _, found = binary_outputs(client.infer(*binary_request(batch), model="batch"))
    assert found["logits"].shape == (3, 3, 8, 8)
    assert found["class_map"].shape == (3, 64, 64)
    _, single = binary_outputs(client.infer(*binary_request(np.ascontiguousarray(batch[1:2])), model="batch"))
    np.testing.assert_array_equal(found["logits"][1:2], single["logits"])


def test_infer_classification_has_label_and_probabilities(client):
    green = np.zeros(SHAPE, np.float32)
    green[:, 1] = 5.0
    data = green.ravel().tolist()
    message = {"inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE, "data": data}]}
    found = {item["name"]: item for item in client.infer(message, model="color").json["outputs"]}
    assert found["label"]["data"] == ["green"]
    assert found["probabilities"]["data"][1] > 0.98


def test_request_id_is_echoed_or_made(client):
    assert client.get("/v2", x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    made = client.get("/v2", x_request_id="no spaces please").headers["x-request-id"]
    assert len(made) == 16


def test_metrics_count_requests_and_parts(client, tensor):
    client.infer(*binary_request(tensor))
    text = client.get("/metrics").body.decode()
    assert 'mscsa_deploy_requests_total{model="colors",route="infer",status="200",version="1"}' in text
    assert 'mscsa_deploy_part_seconds_count{model="colors",part="network",version="1"}' in text


def image_message(**changes):
    item = {"name": "image", "datatype": "FP32", "shape": SHAPE, "data": [0.5] * (3 * 64 * 64)} | changes
    return {"inputs": [{name: value for name, value in item.items() if value is not None}]}


LONG = [0.5] * (3 * 64 * 64)
WRONG = {
    "no JSON": (b"{", "not the protocol's JSON"),
    "no object": (b"[]", "not the protocol's JSON"),
    "deep nesting": (b"[" * 200_000, "not the protocol's JSON"),
    "bad UTF-8": (b'{"inputs": "\xff"}', "not the protocol's JSON"),
    "no inputs": ({}, "inputs"),
    "empty inputs": ({"inputs": []}, "exactly one of: image, pixels, picture"),
    "unknown input": (image_message(name="imag"), "no input 'imag'; it has: image"),
    "two inputs": ({"inputs": [*image_message()["inputs"], *image_message(name="pixels")["inputs"]]}, "exactly one of"),
    "input twice": ({"inputs": image_message()["inputs"] * 2}, "twice"),
    "shape": (image_message(shape=[1, 3, 64]), "more than 192 values can take"),
    "other shape": (image_message(shape=[3, 1, 64, 64]), "expected FP32 [1, 3, 64, 64]"),
    "batch": (image_message(shape=[2, 3, 64, 64], data=LONG * 2), "expected FP32 [1, 3, 64, 64]"),
    "negative shape": (image_message(shape=[-1, 3, 64, 64]), "axes of at least 1"),
    "zero shape": (image_message(shape=[0], data=[]), "axes of at least 1"),
    "huge shape": (image_message(shape=[2**62] * 8), "beyond 2147483647"),
    "long shape": (image_message(shape=[1] * 9), "1 to 8 axes"),
    "float shape": (image_message(shape=[1.5, 3, 64, 64]), "not the protocol's JSON"),
    "datatype": (image_message(datatype="FP33"), "datatype 'FP33', expected one of"),
    "other datatype": (image_message(datatype="INT32", data=[1] * 12288), "is INT32 [1, 3, 64, 64], expected FP32"),
    "text values": (image_message(data=["a"] * 12288), "no list of float values"),
    "uneven nesting": (image_message(data=[[1.0], 2.0]), "no even nesting"),
    "few values": (image_message(data=[1.0]), "holds 1 values, expected 12288"),
    "no data": (image_message(data=None), "neither data nor binary_data_size"),
    "null data": (
        image_message() | {"inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE, "data": None}]},
        "",
    ),
    "overflow": (image_message(data=[1e39] * 12288), "NaN or infinity"),
    "range of uint8": (
        image_message(name="pixels", datatype="UINT8", shape=[1, 1, 3], data=[0, 1, 256]),
        "outside UINT8",
    ),
    "pixels shape": (
        image_message(name="pixels", datatype="UINT8", shape=[3], data=[0, 1, 2]),
        "expected UINT8 [H, W, 3]",
    ),
    "both data": (image_message(parameters={"binary_data_size": 4}), "both data and binary_data_size"),
    "unknown output": (image_message() | {"outputs": [{"name": "class_mop"}]}, "no output 'class_mop'"),
    "output twice": (image_message() | {"outputs": [{"name": "logits"}] * 2}, "output twice"),
    "overlay of a tensor": (image_message() | {"outputs": [{"name": "overlay"}]}, "needs the picture"),
    "flag": (image_message() | {"parameters": {"binary_data_output": "yes"}}, "true or false"),
    "timeout": (image_message() | {"parameters": {"timeout": -1}}, "microseconds"),
    "shared memory": (image_message(parameters={"shared_memory_region": "x"}), "shared memory"),
    "classification": (
        image_message() | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        "classification extension",
    ),
    "no base64": (image_message(name="picture", datatype="BYTES", shape=[1], data=["?!"]), "base64"),
    "empty picture": (image_message(name="picture", datatype="BYTES", shape=[1], data=[""]), "picture is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_infer_wrong_request_is_told_what_is_wrong(client, case):
    message, expected = WRONG[case]
    answer = client.infer(message)
    assert answer.status == 400, answer.body[:300]
    assert expected in answer.error


BYTES = {"name": "picture", "datatype": "BYTES", "shape": [1]}
WRONG_BINARY = {
    "short": (12288 * 4 - 1, 12288 * 4 - 1, {}, "came with 49151 bytes, expected 49152"),
    "truncated": (12288 * 4, 100, {}, "declares 49152 bytes of binary data, but 100 are left"),
    "too long": (12288 * 4, 12288 * 4 + 1, {}, "1 bytes of binary data belong to no input"),
    "negative": (-1, 10, {}, "declares -1 bytes"),
    "text size": ("many", 10, {}, "declares many bytes"),
    "flag size": (True, 10, {}, "declares True bytes"),
    "huge size": (10**30, 10, {}, "declares 1000"),
}


@pytest.mark.parametrize("case", WRONG_BINARY)
def test_infer_wrong_binary_is_told_what_is_wrong(client, case):
    size, sent, changes, expected = WRONG_BINARY[case]
    answer = client.infer(image_message(data=None, parameters={"binary_data_size": size}, **changes), b"\0" * sent)
    assert answer.status == 400
    assert expected in answer.error


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\1\0", "ends inside the length"),
        (struct.pack("<I", 2**32 - 1) + b"x", "declares a BYTES element of 4294967295 bytes, but 1 are left"),
        (struct.pack("<I", 1) + b"x" + struct.pack("<I", 1) + b"y", "more than 1 BYTES elements"),
        (struct.pack("<I", 4) + b"text", "no picture that is read here"),
    ],
)
def test_infer_wrong_bytes_elements_are_told(client, data, expected):
    message = {"inputs": [BYTES | {"parameters": {"binary_data_size": len(data)}}]}
    answer = client.infer(message, data)
    assert answer.status in (400, 415)
    assert expected in answer.error


@pytest.mark.parametrize("value", ["-1", "x", "", "1e3", "99999999999999999999", "0"])
def test_infer_wrong_header_length_is_told(client, value):
    answer = client.infer(image_message(), inference_header_content_length=value)
    assert answer.status == 400
    assert "inference-header-content-length" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/collors", 404),
        ("GET", "/v2/models/colors/versions/2", 404),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/%2e%2e/versions/1", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v2/models/" + "x" * 5000, 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", "/page.js/../../secret", 404),
        ("GET", "/v2/models/colors/infer", 405),
        ("DELETE", "/v2/models/colors", 405),
        ("POST", "/v2/models/collors/infer", 404),
        ("POST", "/nothing", 404),
    ],
)
def test_unknown_path_or_method_is_told(client, method, path, status):
    answer = client(method, path, b"{}" if method == "POST" else None)
    assert answer.status == status
    assert answer.error


@pytest.mark.parametrize("path", ["/v2/models/colors/", "/v2/health/live/", "/metrics/", "/v2/models/colors/infer/"])
def test_slash_too_many_is_told_instead_of_led_elsewhere(client, path):
    answer = client("POST" if "infer" in path else "GET", path)
    assert answer.status == 404
    assert f"there is nothing at '{path}'" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "headers", "reason"),
    [
        ("GET", "/nothing", {}, "unknown"),
        ("GET", "/v2/models/none", {}, "unknown"),
        ("DELETE", "/v2", {}, "method"),
        ("POST", "/v2/models/colors/infer", {}, "invalid"),
        ("POST", "/v2/models/colors/infer", {"x_timeout_ms": "soon"}, "invalid"),
        ("POST", "/v2/models/colors/picture", {"content_type": "text/html"}, "type"),
        ("POST", "/v2/models/colors/picture", {"content_encoding": "gzip"}, "type"),
        ("POST", "/v2/models/colors/picture?answer=poem", {}, "invalid"),
    ],
)
def test_every_refusal_is_counted_with_its_reason(client, method, path, headers, reason):
    def count():
        text = client.get("/metrics").body.decode()
        return {name: float(value) for name, value in re.findall(r'refused_total{reason="(\w+)"} (\S+)', text)}

    before = count()
    assert client(method, path, **headers).status >= 400
    after = count()
    assert {name for name in after if after[name] != before.get(name, 0.0)} == {reason}


@pytest.mark.parametrize(("status", "reason"), [(418, "invalid"), (505, "failed"), (503, "overload"), (431, "head")])
def test_refusal_has_a_reason_whatever_its_status(status, reason):
    assert Refusal(status, "no").reason == reason
    assert Refusal(status, "no", reason="other").reason == "other"


def test_unknown_model_offers_the_nearest_name(client):
    assert "did you mean 'colors'?" in client.get("/v2/models/collors").error


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data", "text/html"])
def test_infer_other_media_type_refused(client, kind):
    assert client.infer(image_message(), content_type=kind).status == 415


def test_infer_compressed_body_refused(client):
    answer = client.infer(image_message(), content_encoding="gzip")
    assert answer.status == 415
    assert "gzip" in answer.error


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5"])
def test_wrong_deadline_is_told(client, value):
    assert "x-timeout-ms" in client.infer(image_message(), x_timeout_ms=value).error


def test_values_that_overflow_inside_the_network_are_the_clients_mistake(client):
    answer = client.infer(image_message(data=[3e38] * 12288))
    # the mean of values near the largest float32 overflows in the sum
    assert answer.status == 400
    assert "outside the model's range" in answer.error


@pytest.mark.parametrize("kind", [">u2", "<f4", "u1", "bool"])
def test_binary_numbers_are_little_endian_rows_whatever_their_layout(kind):
    array = (np.arange(12).reshape(3, 4) % 7).astype(kind)
    expected = array.T.astype(array.dtype.newbyteorder("<")).tobytes()
    assert bytes(to_binary(array.T)) == expected
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    assert np.shares_memory(np.frombuffer(to_binary(plain), np.uint8), plain)
