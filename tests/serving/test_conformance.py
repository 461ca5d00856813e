"""The reference client against our server, and against a real Triton server of the repository that we generate.

One suite, the same answers and the same error classes. The real server runs where ``MSCSA_DEPLOY_TRITON`` names
a virtual environment with nvidia-pytriton (``make test-triton`` makes one).
"""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.runner import load

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@pytest.fixture(params=["own", "triton"])
def server(request):
    """Address of a server of the model ``colors``."""
    if request.param == "own":
        return request.getfixturevalue("client").place
    return request.getfixturevalue("triton").place


@pytest.fixture
def triton_client(server):
    client = http.InferenceServerClient(server)
    yield client
    client.close()


@pytest.fixture(scope="module")
def runner(bundles):
    with load(bundles["seg"]) as runner:
        yield runner


def infer(client, name, array, datatype, *outputs, binary=True, **more):
    given = http.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    wanted = [http.InferRequestedOutput(output, binary_data=binary) for output in outputs]
    return client.infer("colors", [given], outputs=wanted, **more)


def test_server_and_model_are_live_and_ready(triton_client):
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("colors")
    assert triton_client.is_model_ready("colors", "1")
    assert not triton_client.is_model_ready("collors")


def test_metadata(triton_client):
    assert "binary_tensor_data" in triton_client.get_server_metadata()["extensions"]
    model = triton_client.get_model_metadata("colors")
    assert model["versions"] == ["1"]
    inputs = {item["name"]: (item["datatype"], [int(size) for size in item["shape"]]) for item in model["inputs"]}
    assert inputs == {"image": ("FP32", [1, 3, 64, 64]), "pixels": ("UINT8", [-1, -1, 3]), "picture": ("BYTES", [1])}
    assert {item["name"]: item["datatype"] for item in model["outputs"]} == {
        "class_map": "UINT8",
        "logits": "FP32",
        "probabilities": "FP32",
        "overlay": "BYTES",
    }
    index = triton_client.get_model_repository_index()
    assert {"name": "colors", "version": "1", "state": "READY"}.items() <= index[0].items() or len(index) > 1


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tensor_in_logits_and_class_map_out(triton_client, runner, binary):
    tensor = np.random.default_rng(1).random((1, 3, 64, 64), dtype=np.float32)
    result = infer(triton_client, "image", tensor, "FP32", "logits", "class_map", binary=binary, request_id="r1")
    logits = runner.run(tensor)
    classes, _ = runner.answer(logits, (64, 64))
    # the same library computes the same file on both servers; JSON keeps every digit
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-6)
    np.testing.assert_array_equal(result.as_numpy("class_map")[0], classes)
    assert result.get_response()["id"] == "r1"
    assert result.get_response()["model_name"] == "colors"


def test_pixels_in(triton_client, runner, tiny):
    image = tiny.scene()
    result = infer(triton_client, "pixels", image, "UINT8", "class_map")
    np.testing.assert_array_equal(result.as_numpy("class_map")[0], runner.predict(image).class_map)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_in(triton_client, runner, tiny, kind):
    data = tiny.picture(tiny.scene(), kind)
    result = infer(triton_client, "picture", np.array([data], dtype=object), "BYTES", "class_map", "overlay")
    np.testing.assert_array_equal(result.as_numpy("class_map")[0], runner.predict(data).class_map)
    assert result.as_numpy("overlay")[0].startswith(b"\x89PNG")


def test_outputs_not_asked_for_stay_away(triton_client):
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    result = infer(triton_client, "image", tensor, "FP32", "logits")
    assert [item["name"] for item in result.get_response()["outputs"]] == ["logits"]


def refused(client, *args, **kwargs):
    with pytest.raises(
        http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception
    ) as caught:
        infer(client, *args, **kwargs)
    return caught.value


ERRORS = {
    "unknown input": ("color", np.zeros((1, 3, 64, 64), np.float32), "FP32", "logits"),
    "shape": ("image", np.zeros((1, 3, 32, 64), np.float32), "FP32", "logits"),
    "rank": ("image", np.zeros((3, 64, 64), np.float32), "FP32", "logits"),
    "datatype": ("image", np.zeros((1, 3, 64, 64), np.int32), "INT32", "logits"),
    "unknown output": ("image", np.zeros((1, 3, 64, 64), np.float32), "FP32", "class_mop"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistake_of_the_client_is_a_400(triton_client, case):
    error = refused(triton_client, *ERRORS[case])
    assert error.status() == "400"
    assert error.message()


def test_no_picture_is_an_error(triton_client):
    error = refused(triton_client, "picture", np.array([b"text"], dtype=object), "BYTES", "class_map")
    # Triton's models have one status for all mistakes of the client
    assert error.status() in ("415", "400")
    assert "no picture" in error.message()


def test_unknown_model_and_version_are_errors(triton_client):
    for name, version in (("collors", ""), ("colors", "9")):
        with pytest.raises(Exception, match="col") as caught:
            triton_client.get_model_metadata(name, version)
        assert caught.value.status() in ("400", "404")


def test_many_requests_at_once(server, runner, tiny):
    image = tiny.scene()
    with_expected = runner.predict(image).class_map
    client = http.InferenceServerClient(server, concurrency=4)
    given = http.InferInput("pixels", list(image.shape), "UINT8")
    given.set_data_from_numpy(image)
    wanted = [http.InferRequestedOutput("class_map")]
    waiting = [client.async_infer("colors", [given], outputs=wanted) for _ in range(12)]
    for one in waiting:
        np.testing.assert_array_equal(one.get_result().as_numpy("class_map")[0], with_expected)
    client.close()


def test_triton_reads_every_configuration_that_we_write(triton):
    client = http.InferenceServerClient(triton.place)
    states = {item["name"]: item for item in client.get_model_repository_index()}
    client.close()
    assert states["colors"]["state"] == "READY"
    # a configuration that does not parse is refused by line and column before any backend is looked for
    assert "unable to find backend library for backend 'onnxruntime'" in states["colors_onnxruntime"]["reason"]
    assert "unable to find backend library for backend 'openvino'" in states["gathered_openvino"]["reason"]


def test_triton_warms_up_on_the_golden_input(triton):
    log = triton.log.read_text()
    for name in ("colors", "gathered"):
        assert f"model '{name}' instance {name}_0_0 is running warmup sample 'golden'" in log
    assert "Skipping" not in log
