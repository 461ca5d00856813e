"""Servers of a tiny bundle: logits are the mean of each color channel, so the class is the strongest color."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.bundle.golden import write_golden
from mscsa_deploy.bundle.manifest import ArtifactEntry, BundleModel, Manifest, Postprocess, Tensor
from mscsa_deploy.bundle.store import write_bundle
from mscsa_deploy.bundle.triton import pack
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.runtimes.fake import FakeModel, FakeTensor, write_fake
from mscsa_deploy.serving.application import Service
from mscsa_deploy.serving.direct import Direct
from mscsa_deploy.serving.repository import Place
from mscsa_deploy.serving.server import listen, server_of, url_of
from mscsa_deploy.serving.settings import Listen, Work

SIZE, STRIDE = 64, 8
SECONDS = 20
"""For anything that a test waits for; far more than it takes."""


def network(path, *, task, batch, tail=False):
    import onnx
    from onnx import TensorProto, helper

    cell = STRIDE if task == "seg" else SIZE
    last = "Identity" if task == "seg" else "Flatten"
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[cell] * 2, strides=[cell] * 2),
        helper.make_node(last, ["pooled"], ["logits"]),
    ]
    size = "n" if batch < 0 else batch
    grid = [size, 3, SIZE // STRIDE, SIZE // STRIDE] if task == "seg" else [size, 3]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [size, 3, SIZE, SIZE])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, grid)
    constants = []
    if tail:
        nodes += [
            helper.make_node("Resize", ["logits", "", "scales"], ["large"], mode="linear"),
            helper.make_node("ArgMax", ["large"], ["winner"], axis=1, keepdims=0),
            helper.make_node("Cast", ["winner"], ["classmap"], to=TensorProto.UINT8),
        ]
        constants = [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, STRIDE, STRIDE])]
        output = helper.make_tensor_value_info("classmap", TensorProto.UINT8, [size, SIZE, SIZE])
    graph = helper.make_graph(nodes, "colors", [image], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def class_map_entry(entry):
    """The record of a network's file that ends in a class map."""
    output = Tensor(name="classmap", dtype="uint8", shape=(entry.inputs[0].shape[0], SIZE, SIZE))
    post = Postprocess.of("seg", "classmap", tensor="classmap")
    return msgspec.structs.replace(entry, path="classmap.onnx", outputs=(output,), postprocess=post)


def golden_pair(directory):
    """A picture with its tensor and the logits that `network` makes of it."""
    image = scene(SIZE, SIZE)
    tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None] / np.float32(255))
    logits = tensor.reshape(1, 3, SIZE // STRIDE, STRIDE, SIZE // STRIDE, STRIDE).mean((3, 5))
    return write_golden(directory, picture=picture(image), suffix=".png", tensor=tensor, output=logits, tolerance={})


def make_bundle(
    directory,
    *,
    task="seg",
    batch=1,
    name="colors",
    fake=None,
    labels=("red", "green", "blue"),
    tail=False,
    runtimes=("onnxruntime",),
    golden=False,
):
    """A bundle of the color network, `tail`: also ending in a class map; or of a fake one with the settings `fake`."""
    directory.mkdir(parents=True)
    grid = (batch, 3, SIZE // STRIDE, SIZE // STRIDE) if task == "seg" else (batch, 3)
    shape = (batch, 3, SIZE, SIZE)
    if fake is None:
        path, kind = "model.onnx", "onnx"
        network(directory / path, task=task, batch=batch)
    else:
        path, kind, runtimes = "model.fake", "fake", ("fake",)
        tensors = (FakeTensor(name="image", shape=shape),), (FakeTensor(name="logits", shape=grid),)
        write_fake(directory / path, FakeModel(inputs=tensors[0], outputs=tensors[1], **fake))
    image = Tensor(name="image", dtype="float32", shape=shape)
    entry = ArtifactEntry(
        path=path,
        kind=kind,
        precision="fp32",
        runtimes=runtimes,
        inputs=(image,),
        outputs=(Tensor(name="logits", dtype="float32", shape=grid),),
        postprocess=Postprocess.of(task, "logits", tensor="logits", stride=STRIDE if task == "seg" else 1),
    )
    entries = (entry,)
    if tail:
        entries = (entry, class_map_entry(entry))
        network(directory / entries[1].path, task=task, batch=batch, tail=True)
    manifest = Manifest(
        model=BundleModel(name=name),
        task=task,
        labels=labels,
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        input=image,
        preprocess=Preprocess(height=SIZE, width=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        artifacts=entries,
        golden=golden_pair(directory) if golden else None,
    )
    return write_bundle(directory, manifest).root


def scene(height=96, width=160):
    """Left third red, middle green, right blue."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, part in enumerate(np.array_split(np.arange(width), 3)):
        image[:, part, channel] = 255
    return image


def picture(image, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The message; also checks that it is the protocol's error object."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        return self.json["error"]


class Client:
    def __init__(self, url):
        self.url = url
        self.place = urlsplit(url).netloc

    def __call__(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.place, timeout=SECONDS)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def infer(self, message, tail=b"", *, model="colors", **headers):
        head = message if isinstance(message, bytes) else json.dumps(message).encode()
        if tail:
            headers["inference_header_content_length"] = str(len(head))
        return self("POST", f"/v2/models/{model}/infer", head + tail, **headers)

    def picture(self, data, *, answer="json", model="colors", **headers):
        headers.setdefault("content_type", "image/png")
        return self("POST", f"/v2/models/{model}/picture?answer={answer}", data, **headers)


@contextlib.contextmanager
def running(service):
    """A client of a server of `service` on a free port; `client.repository` are its models."""
    repository = service.open()
    with listen(service.listen) as listener:
        server = server_of(service, repository)
        listener.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        client = Client(url_of(service.listen, listener))
        client.repository = repository
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def serving(*bundles, listening=None, limits=None, **work):
    """A server of bundles or ``NAME=PATH`` texts, one worker unless told otherwise."""
    settings = {"workers": 1, **work}
    service = Service(
        tuple(Place.of(str(bundle)) for bundle in bundles),
        Work(**settings),
        **({"limits": limits} if limits else {}),
        listen=Listen(**{"port": 0, **(listening or {})}),
    )
    with running(service) as client:
        yield client


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is kept in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Bundles by name, read only."""
    root = tmp_path_factory.mktemp("bundles")
    return {
        "seg": make_bundle(root / "seg"),
        "cls": make_bundle(root / "cls", task="cls", name="color"),
        "batch": make_bundle(root / "batch", batch=-1, name="batch"),
        "both": make_bundle(root / "both", batch=-1, name="both", tail=True),
    }


@pytest.fixture(scope="session")
def client(bundles):
    """One server of several bundles, for tests that leave it as it is."""
    with serving(bundles["seg"], bundles["cls"], bundles["batch"]) as client:
        yield client


@pytest.fixture
def serve():
    return serving


@pytest.fixture(scope="session")
def tiny():
    """What the tests make things of."""
    return SimpleNamespace(make_bundle=make_bundle, scene=scene, picture=picture, Client=Client, running=running)


@pytest.fixture(scope="session")
def triton(tmp_path_factory, missing):
    """Address and log of a real Triton server of the generated repository, from the nvidia-pytriton wheel."""
    place = os.environ.get("MSCSA_DEPLOY_TRITON")
    if not place:
        missing("triton", "MSCSA_DEPLOY_TRITON names no environment with a Triton server: see 'make test-triton'")
    (libraries,) = Path(place).glob("lib/python3.*/site-packages")
    version = libraries.parent.name.removeprefix("python")
    wheel = libraries / "pytriton" / "tritonserver"
    root = tmp_path_factory.mktemp("triton")
    backend = shutil.copytree(wheel / "backends" / "python", root / "backends" / "python")
    shutil.copy(wheel / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    for name, batch in (("colors", 1), ("gathered", -1)):
        runtimes = ("onnxruntime", "openvino")
        bundle = make_bundle(root / name, name=name, batch=batch, runtimes=runtimes, golden=True)
        with zipfile.ZipFile(pack(bundle, root / f"{name}.zip")) as archive:
            archive.extractall(root / "repository")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [wheel / "bin" / "tritonserver", "--model-repository", root / "repository"]
    command += ["--backend-directory", root / "backends", "--http-address", "127.0.0.1", "--http-port", str(port)]
    command += ["--allow-grpc", "false", "--allow-metrics", "false", "--exit-timeout-secs", "5", "--log-verbose", "1"]
    # The wheel has the python backend only: the other models are parsed and then refused.
    command += ["--exit-on-error", "false", "--strict-readiness", "false"]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(libraries)]),
        "LD_LIBRARY_PATH": str(libraries / "nvidia_pytriton.libs"),
    }
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=log)
    try:
        _wait_ready(f"127.0.0.1:{port}", process, root / "log")
        yield SimpleNamespace(place=f"127.0.0.1:{port}", log=root / "log")
    finally:
        process.terminate()
        process.wait(SECONDS)


def _wait_ready(place, process, log):
    end = time.monotonic() + 3 * SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            if Client(f"http://{place}").get("/v2/health/ready").status == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"Triton did not become ready:\n{log.read_text()[-4000:]}")


@pytest.fixture
def passed(monkeypatch):
    """How many answers workers have sent, how many were refused to them, and how many heads were known."""
    counts = SimpleNamespace(sent=0, left=0, known=0)
    deliver, again = Direct.deliver, Direct.again

    def counted(direct, reply):
        done = deliver(direct, reply)
        counts.sent += done
        counts.left += not done
        return done

    def counted_again(direct, *arguments):
        counts.known += 1
        again(direct, *arguments)

    monkeypatch.setattr(Direct, "deliver", counted)
    monkeypatch.setattr(Direct, "again", counted_again)
    return counts


@pytest.fixture
def slow(tiny, tmp_path):
    """A bundle whose network takes 300 ms."""
    return tiny.make_bundle(tmp_path / "slow", fake={"latency_ms": 300.0})
