"""Opening a bundle: its threads, what is refused in words, and nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from mscsa_deploy.bundle.manifest import Choice, Postprocess, Tensor
from mscsa_deploy.bundle.store import Bundle, write_bundle
from mscsa_deploy.errors import SpecError, UnsupportedError, UserError
from mscsa_deploy.runner import load

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "nncf", "tensorrt", "rich", "jinja2")


@pytest.mark.parametrize(
    ("cores", "taken"), [(8, (3, 2)), (2, (2, 2)), (1, (1, 1))], ids=["many", "as measured", "one"]
)
def test_load_takes_the_threads_that_were_recommended_or_measured_as_far_as_there_are_cores(
    tiny, tmp_path, monkeypatch, cores, taken
):
    monkeypatch.setattr("mscsa_deploy.core.environment.usable_cores", lambda: cores)
    (tmp_path / "b").mkdir()
    tiny.color_network(tmp_path / "b" / "model.onnx")
    entry = tiny.entry(
        "model.onnx", runtimes=("onnxruntime",), measurements=(tiny.measurement("onnxruntime", 1.0, threads=2),)
    )
    choice = Choice(artifact="model.onnx", runtime="onnxruntime", precision="fp32", threads=3)
    for chosen, threads in zip((choice, None), taken, strict=True):
        bundle = write_bundle(tmp_path / "b", tiny.manifest_of([entry], recommended=chosen))
        with load(bundle) as runner:
            assert runner.threads == threads


@pytest.mark.parametrize("threads", [2**31, 10**30, 0, -4])
def test_load_recommendation_of_impossible_threads_takes_what_there_is(bundle, monkeypatch, threads):
    monkeypatch.setattr("mscsa_deploy.core.environment.usable_cores", lambda: 2)
    choice = msgspec.structs.replace(bundle.manifest.recommended, threads=threads)
    with load(Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, recommended=choice))) as runner:
        assert runner.threads == (2 if threads > 0 else 1)


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31, "2", 2.0])
def test_load_threads_out_of_range_refused(bundle, threads):
    with pytest.raises(UserError, match=f"threads is {threads!r}, expected 1 to 1024"):
        load(bundle, threads=threads)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        pytest.param(
            {"runtime": "tensorrt"}, UnsupportedError, r"no artefact for runtime 'tensorrt'.*model\.onnx", id="runtime"
        ),
        pytest.param(
            {"precision": "int8"}, UnsupportedError, r"no artefact in int8.*model\.onnx \(fp32", id="precision"
        ),
        pytest.param({"runtime": "onxruntime"}, UserError, "did you mean 'onnxruntime'", id="typo"),
        pytest.param({"precision": "int9"}, UserError, "did you mean 'int8'", id="precision typo"),
    ],
)
def test_load_what_is_not_there_says_what_is(bundle, asked, error, message):
    with pytest.raises(error, match=message):
        load(bundle, **asked)


def test_load_runtime_that_is_not_installed_says_how_to_get_it(bundle, monkeypatch):
    from mscsa_deploy.runtimes.onnxruntime import OnnxRuntime
    from mscsa_deploy.runtimes.protocol import Capabilities

    gone = Capabilities(False, "onnxruntime is not installed", "pip install onnxruntime", "", (), ())
    monkeypatch.setattr(OnnxRuntime, "probe", lambda _: gone)
    with pytest.raises(UnsupportedError, match=r"not installed \(pip install onnxruntime\)"):
        load(bundle, runtime="onnxruntime")


def test_load_tampered_bundle_refused(bundle):
    bundle.file("model.onnx").write_bytes(b"not what it was")
    with pytest.raises(UserError, match="sha256 differs"):
        load(bundle.root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inputs": (Tensor(name="picture", dtype="float32", shape=(1, 3, 64, 64)),)},
            "has the input 'image'.*'picture'",
        ),
        (
            {"inputs": (Tensor(name="image", dtype="uint8", shape=(1, 3, 64, 64)),)},
            "'image' float32.* says 'image' uint8",
        ),
        ({"inputs": (Tensor(name="image", dtype="float32", shape=(1, 3, 96, 64)),)}, r"64, 64\].* says .*96, 64\]"),
        ({"outputs": (Tensor(name="logits", dtype="float32", shape=(1, 7, 8, 8)),)}, r"output 'logits'.*1, 7, 8, 8\]"),
        ({"postprocess": Postprocess.of("seg", "logits", tensor="more", stride=8)}, "none of that name"),
    ],
    ids=["another input", "another dtype", "another size", "more classes", "another output"],
)
def test_load_file_that_is_not_as_the_bundle_says_refused(bundle, runtime, changes, message):
    if "postprocess" in changes:
        changes = {**changes, "outputs": (Tensor(name="more", dtype="float32", shape=(1, 3, 8, 8)),)}
    entry = msgspec.structs.replace(bundle.manifest.artifacts[0], **changes)
    other = Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, artifacts=(entry,)))
    with pytest.raises(SpecError, match=message):
        load(other, runtime=runtime)


def test_load_takes_a_batch_that_the_file_leaves_free(bundle, runtime):
    entry = bundle.manifest.artifacts[0]
    inputs = (msgspec.structs.replace(entry.inputs[0], shape=(-1, 3, 64, 64)),)
    manifest = msgspec.structs.replace(bundle.manifest, artifacts=(msgspec.structs.replace(entry, inputs=inputs),))
    load(Bundle(bundle.root, manifest), runtime=runtime).close()


def test_load_segmentation_of_a_crop_refused(bundle):
    spec = msgspec.structs.replace(bundle.manifest.preprocess, resize="short_side_crop", short_side=80)
    manifest = msgspec.structs.replace(bundle.manifest, preprocess=spec)
    with pytest.raises(UserError, match="crop of the picture"):
        load(Bundle(bundle.root, manifest))


def test_load_imports_only_the_chosen_runtime(bundle, runtime):
    others = [name for name in HEAVY if name != runtime]
    code = (
        f"import sys; from mscsa_deploy.runner import load; load({str(bundle.root)!r}, precision='fp32').close(); "
        f"print(*[name for name in {others} if name in sys.modules])"
    )
    choice = Choice(artifact="model.onnx", runtime=runtime, precision="fp32")
    write_bundle(bundle.root, msgspec.structs.replace(bundle.manifest, recommended=choice))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_import_is_quick_and_light():
    code = (
        "import time, sys; begin = time.process_time(); import mscsa_deploy.runner; "
        f"print(time.process_time() - begin, *[name for name in {HEAVY} if name in sys.modules])"
    )
    best = min(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    )
    assert best[1:] == []
    assert float(best[0]) < 0.3
