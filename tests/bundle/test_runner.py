"""The light runner: right answers from pictures, the right artefact for the machine, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from mscsa_deploy.bundle.archive import pack
from mscsa_deploy.bundle.manifest import Choice, Postprocess, Tensor
from mscsa_deploy.bundle.selection import candidates, select, twin_of
from mscsa_deploy.bundle.store import Bundle, write_bundle
from mscsa_deploy.core.report import Metric
from mscsa_deploy.errors import SpecError, UnsupportedError, UserError
from mscsa_deploy.runner import load

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "nncf", "tensorrt", "rich", "jinja2")


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    pytest.importorskip(request.param)
    return request.param


def test_predict_segments_at_the_size_of_the_picture(bundle, tiny, runtime):
    image = tiny.scene(96, 160)
    with load(bundle.root, runtime=runtime) as runner:
        answer = runner.predict(image)
        assert runner.candidate.runtime == runtime
    assert answer.size == (96, 160)
    assert answer.class_map.shape == (96, 160)
    assert answer.class_map.dtype == np.uint8
    expected = image.argmax(axis=2)
    # borders move by up to a cell of the small logits: 8 of 64 columns of 160
    assert np.mean(answer.class_map == expected) > 0.95
    assert set(answer.parts_ms) == {"decode", "preprocess", "network", "postprocess"}
    assert all(value >= 0 for value in answer.parts_ms.values())


def test_predict_path_bytes_and_pixels_agree(bundle, tiny, tmp_path):
    image = tiny.scene()
    path = tmp_path / "scene.png"
    path.write_bytes(tiny.picture_bytes(image))
    with load(bundle, runtime="onnxruntime") as runner:
        maps = [runner.predict(given).class_map for given in (image, path, str(path), path.read_bytes())]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_pixels_in_and_a_class_map_out_give_the_same_answer(bundle, tiny, tmp_path):
    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.pixels import take_pixels
    from mscsa_deploy.graphs.tail.files import write_with_tail

    whole = tmp_path / "whole"
    whole.mkdir()
    manifest, path = bundle.manifest, whole / "model.onnx"
    write_with_tail(bundle.root / "model.onnx", "cells", path)
    model = read_model(path)
    take_pixels(model, manifest.preprocess.mean, manifest.preprocess.std)
    path.write_bytes(to_bytes(model))
    pixels = (Tensor(name="image", dtype="uint8", shape=(1, 64, 64, 3)),)
    classes = (Tensor(name="classmap", dtype="uint8", shape=(1, 64, 64)),)
    post = Postprocess.of("seg", "classmap", tensor="classmap")
    made = tiny.entry("model.onnx", runtimes=("onnxruntime", "openvino"))
    made = msgspec.structs.replace(made, inputs=pixels, outputs=classes, postprocess=post)
    write_bundle(whole, tiny.manifest_of([made]))

    with load(bundle.root) as runner:
        wanted = runner.predict(tiny.scene()).class_map
    for runtime in ("onnxruntime", "openvino"):
        with load(whole, runtime=runtime) as runner:
            np.testing.assert_array_equal(runner.predict(tiny.scene()).class_map, wanted)


def test_class_map_file_runs_unless_values_are_wanted(bundle, tiny):
    classes = (Tensor(name="classmap", dtype="uint8", shape=(1, 64, 64)),)
    post = Postprocess.of("seg", "classmap", tensor="classmap")
    whole = tiny.entry(
        "onnxruntime/some/model.classmap.onnx",
        runtimes=("onnxruntime",),
        measurements=(tiny.measurement("onnxruntime", 9.0, boundary="end_to_end"),),
    )
    whole = msgspec.structs.replace(whole, outputs=classes, postprocess=post)
    manifest = bundle.manifest
    both = msgspec.structs.replace(manifest, artifacts=(*manifest.artifacts, whole))

    assert twin_of(whole, both) == manifest.artifacts[0]
    assert twin_of(manifest.artifacts[0], both) is None
    first, second, *_ = candidates(both, values=False)
    assert [each.entry.path for each in (first, second)] == [whole.path, "model.onnx"]
    assert first.measured.boundary == "end_to_end"
    first, second, *_ = candidates(both)
    assert [each.entry.path for each in (first, second)] == ["model.onnx", whole.path]
    tuned = tiny.entry("onnxruntime/some/model.fp32.onnx", runtimes=("onnxruntime",))
    here = [msgspec.structs.replace(each, profile="some") for each in (whole, tuned)]
    assert twin_of(here[0], msgspec.structs.replace(both, artifacts=(*manifest.artifacts, *here))) == here[1]


def test_predict_classifies_with_labels_and_probabilities(tiny, tmp_path, runtime):
    bundle = tiny.make_bundle(tmp_path / "cls", task="cls")
    green = np.zeros((50, 70, 3), np.uint8)
    green[..., 1], green[..., 2] = 255, 51
    with load(bundle, runtime=runtime) as runner:
        answer = runner.predict(green)
        best = runner.predict(green, top=1)
    assert best.top == answer.top[:1]
    assert answer.class_map is None
    assert [ranked.label for ranked in answer.top] == ["green", "blue", "red"]
    weights = np.exp([1.0, 0.2, 0.0])
    np.testing.assert_allclose([ranked.probability for ranked in answer.top], weights / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("output", "values", "shape"),
    [
        pytest.param("logits-full", np.float32, (1, 3, 64, 64), id="logits-full"),
        pytest.param("classmap", np.uint8, (1, 64, 64), id="classmap"),
        pytest.param("probs", np.float32, (1, 3, 64, 64), id="probs"),
    ],
)
def test_predict_understands_every_boundary(bundle, monkeypatch, output, values, shape):
    from mscsa_deploy.bundle.manifest import Postprocess
    from mscsa_deploy.runner import Runner

    post = Postprocess.of("seg", output, tensor="logits")
    changed = msgspec.structs.replace(bundle.manifest.artifacts[0], postprocess=post)
    manifest = msgspec.structs.replace(bundle.manifest, artifacts=(changed,))
    classes = np.zeros((64, 64), np.uint8)
    classes[:, 32:] = 2
    array = np.moveaxis(np.eye(3, dtype=values)[classes], 2, 0)[None] if len(shape) == 4 else classes[None]
    monkeypatch.setattr(Runner, "run", lambda *_: array)
    with load(Bundle(bundle.root, manifest), runtime="onnxruntime") as runner:
        answer = runner.predict(np.zeros((128, 32, 3), np.uint8))
    assert (answer.class_map[:, :16] == 0).all()
    assert (answer.class_map[:, 16:] == 2).all()


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


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31])
def test_load_threads_out_of_range_refused(bundle, threads):
    with pytest.raises(UserError, match=f"threads is {threads}, expected 1 to 1024"):
        load(bundle, threads=threads)


def test_load_zip_answers_the_same(bundle, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = pack(bundle.root, tmp_path / "bundle.zip")
    with load(path, runtime="onnxruntime") as zipped, load(bundle.root, runtime="onnxruntime") as plain:
        one, other = zipped.predict(tiny.scene()), plain.predict(tiny.scene())
    np.testing.assert_array_equal(one.class_map, other.class_map)


def test_run_golden_input_gives_golden_output(bundle, runtime):
    golden = bundle.manifest.golden
    with load(bundle, runtime=runtime) as runner:
        output = runner.run(np.load(bundle.file(golden.input)))
    # float32 sums of 64 values in another order
    np.testing.assert_allclose(output, np.load(bundle.file(golden.output)), rtol=1e-5, atol=1e-6)


def test_load_prefers_the_recommended_artifact(bundle):
    with load(bundle) as runner:
        assert repr(runner) == "Runner(colors: model.onnx on onnxruntime in fp32, threads=1)"


def test_load_without_recommendation_prefers_the_fastest_measured(bundle):
    manifest = msgspec.structs.replace(bundle.manifest, recommended=None)
    with load(Bundle(bundle.root, manifest), threads=2) as runner:
        assert (runner.candidate.runtime, runner.threads) == ("openvino", 2)


def test_candidates_order_is_recommended_measured_then_unmeasured(tiny):
    fast = tiny.entry(
        "int8.onnx",
        runtimes=("fake",),
        precision="int8",
        measurements=(tiny.measurement("fake", 1.0, precision="int8"),),
    )
    slow = tiny.entry("fp32.onnx", runtimes=("fake", "openvino"), measurements=(tiny.measurement("fake", 3.0),))
    choice = Choice(artifact="fp32.onnx", runtime="fake", precision="fp32")
    order = candidates(tiny.manifest_of([slow, fast], recommended=choice))
    assert [(found.entry.path, found.runtime) for found in order] == [
        ("fp32.onnx", "fake"),
        ("int8.onnx", "fake"),
        ("fp32.onnx", "openvino"),
    ]


def quantized(tiny, bundle, measurements):
    """The bundle with a file "int8" for OpenVINO that it recommends, and its FP32 file."""
    bundle.file("int8.onnx").write_bytes(bundle.file("model.onnx").read_bytes())
    entry = tiny.entry("int8.onnx", runtimes=("openvino",), precision="int8", measurements=measurements)
    choice = Choice(artifact="int8.onnx", runtime="openvino", precision="int8")
    manifest = msgspec.structs.replace(
        bundle.manifest, artifacts=(*bundle.manifest.artifacts, entry), recommended=choice
    )
    return Bundle(bundle.root, manifest)


@pytest.fixture
def able(monkeypatch):
    """Say what OpenVINO can execute."""
    from mscsa_deploy.runtimes.openvino import OpenVino
    from mscsa_deploy.runtimes.protocol import Capabilities

    def says(*precisions):
        can = Capabilities(True, "", "", "1", ("cpu",), precisions)
        monkeypatch.setattr(OpenVino, "probe", lambda _: can)

    return says


def test_float_rest_that_cannot_run_here_is_passed_over(bundle, tiny, able):
    rest = tiny.measurement("openvino", 0.5, precision="int8", options={"float_precision": "bf16"})
    both = quantized(tiny, bundle, (rest,))
    able("int8", "bf16", "fp32")
    assert str(select(both)) == "int8.onnx on openvino in int8 with the rest in bf16"
    able("int8", "fp32")
    assert str(select(both)) == "model.onnx on openvino in fp32"
    with pytest.raises(UnsupportedError, match="cannot execute bf16 here, in which its float rest was measured"):
        select(both, precision="int8")


@pytest.mark.parametrize("quicker", ["fp32", "bf16"])
def test_file_measured_with_two_rests_runs_with_the_faster_that_can_run_here(bundle, tiny, able, quicker):
    found = [
        tiny.measurement("openvino", 0.5 if rest == quicker else 0.7, precision="int8", options=options)
        for rest, options in (("fp32", {}), ("bf16", {"float_precision": "bf16"}))
    ]
    both = quantized(tiny, bundle, found)
    able("int8", "bf16", "fp32")
    assert [each.rest for each in candidates(both.manifest)[:2]] == [quicker, "fp32" if quicker == "bf16" else "bf16"]
    assert (select(both).precision, select(both).rest) == ("int8", quicker)
    able("int8", "fp32")
    assert (select(both).precision, select(both).rest) == ("int8", "fp32")


def test_what_lost_too_much_accuracy_comes_after_what_did_not(bundle, tiny, able):
    def found(p50, drop, **options):
        metric = Metric(name="top-1", value=90.0 - drop, reference=90.0, drop=drop, images=10)
        return tiny.measurement("openvino", p50, precision="int8", options=options, metric=metric)

    able("int8", "bf16", "fp32")
    both = quantized(tiny, bundle, (found(0.7, 0.1), found(0.5, 1.3, float_precision="bf16")))
    assert (select(both).precision, select(both).rest) == ("int8", "fp32")
    unasked = Bundle(both.root, msgspec.structs.replace(both.manifest, recommended=None))
    assert (select(unasked).precision, select(unasked).rest) == ("int8", "fp32")
    lossy = quantized(tiny, bundle, (found(0.5, 1.3),))
    unasked = Bundle(lossy.root, msgspec.structs.replace(lossy.manifest, recommended=None))
    assert select(unasked).precision == "fp32"
    assert select(unasked, precision="int8").precision == "int8"


def test_class_map_file_computes_as_the_file_it_stands_beside(tiny):
    logits, whole = (
        tiny.entry(
            path,
            runtimes=("openvino",),
            precision="int8",
            measurements=[
                tiny.measurement("openvino", p50, precision="int8", boundary=boundary, options=options)
                for p50, options in ((3.0, {}), (2.0, {"float_precision": "bf16"}))
            ],
        )
        for path, boundary in (("logits.onnx", "core"), ("classmap.onnx", "end_to_end"))
    )
    post = Postprocess.of("seg", "classmap", tensor="classmap")
    whole = msgspec.structs.replace(whole, postprocess=post)
    order = candidates(tiny.manifest_of([logits, whole]))
    assert [(each.entry.path, each.rest) for each in order] == [
        ("logits.onnx", "bf16"),
        ("classmap.onnx", "bf16"),
        ("logits.onnx", "fp32"),
        ("classmap.onnx", "fp32"),
    ]


def test_load_artifact_for_other_instructions_comes_last_and_warns(bundle):
    entry = msgspec.structs.replace(bundle.manifest.artifacts[0], requires=("avx1024",))
    bundle.file("other.onnx").write_bytes(bundle.file("model.onnx").read_bytes())
    other = msgspec.structs.replace(bundle.manifest.artifacts[0], path="other.onnx", measurements=())
    both = Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, artifacts=(entry, other)))
    with load(both) as runner:
        assert runner.candidate.entry.path == "other.onnx"
    only = Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, artifacts=(entry,)))
    with pytest.warns(RuntimeWarning, match="requires avx1024"), load(only):
        pass


def test_load_on_a_system_that_lists_no_instructions_takes_what_is_recommended_and_says_so(
    bundle, tiny, tmp_path, monkeypatch
):
    from mscsa_deploy.core import environment

    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(environment.platform, "machine", lambda: "AMD64")
    both = quantized(tiny, bundle, (tiny.measurement("openvino", 0.5, precision="int8"),))
    first, int8 = both.manifest.artifacts
    needy = msgspec.structs.replace(int8, requires=("vnni",))
    both = Bundle(both.root, msgspec.structs.replace(both.manifest, artifacts=(first, needy)))
    with pytest.warns(RuntimeWarning, match="requires vnni; this system does not tell whether"), load(both) as runner:
        assert runner.candidate.entry.path == "int8.onnx"
    monkeypatch.setattr(environment.platform, "machine", lambda: "arm64")
    assert select(both).entry.path == "model.onnx"


@pytest.fixture
def elsewhere(bundle, tiny, monkeypatch):
    """A bundle made on x86_64 that recommends OpenVINO's INT8, and a machine with another architecture."""
    from mscsa_deploy.core import environment

    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    both = quantized(
        tiny,
        bundle,
        (
            tiny.measurement("openvino", 0.1, precision="int8", options={"float_precision": "bf16"}),
            tiny.measurement("openvino", 0.2, precision="int8"),
        ),
    )
    bundle.file("ort.onnx").write_bytes(bundle.file("model.onnx").read_bytes())
    slow = tiny.measurement("onnxruntime", 9.0, precision="int8")
    ort = tiny.entry("ort.onnx", runtimes=("onnxruntime",), precision="int8", measurements=(slow,))
    whole = msgspec.structs.replace(
        both.manifest.artifacts[0], path="tail.onnx", postprocess=Postprocess.of("seg", "classmap", tensor="classmap")
    )
    artifacts = (whole, *both.manifest.artifacts, ort)
    return Bundle(
        bundle.root, msgspec.structs.replace(both.manifest, artifacts=artifacts, environment={"arch": "x86_64"})
    )


def test_select_on_another_architecture_leaves_the_recommendation_and_latencies_out(elsewhere, able):
    able("int8", "bf16", "fp32")
    assert str(select(elsewhere)) == "model.onnx on onnxruntime in fp32"
    assert str(select(elsewhere, precision="int8")) == "ort.onnx on onnxruntime in int8"
    assert str(select(elsewhere, runtime="openvino")) == "model.onnx on openvino in fp32"
    assert str(select(elsewhere, runtime="openvino", precision="int8")) == "int8.onnx on openvino in int8"


def test_select_on_the_architecture_it_was_made_on_keeps_the_recommendation(elsewhere, able, monkeypatch):
    monkeypatch.setattr("mscsa_deploy.core.environment.platform.machine", lambda: "x86_64")
    able("int8", "bf16", "fp32")
    assert str(select(elsewhere)) == "int8.onnx on openvino in int8 with the rest in bf16"


def test_load_on_another_architecture_warns_once(elsewhere, monkeypatch, recwarn):
    with load(elsewhere, values=True):
        pass
    assert [str(each.message) for each in recwarn if each.category is RuntimeWarning] == [
        "the bundle was measured and verified on x86_64, not on aarch64; check it with the golden pair"
    ]
    bare = Bundle(elsewhere.root, msgspec.structs.replace(elsewhere.manifest, golden=None))
    with pytest.warns(RuntimeWarning, match="check its answers"), load(bare):
        pass


@pytest.mark.parametrize("arch", ["x86_64", "", None, 7])
def test_load_where_it_was_made_or_nobody_knows_where_does_not_warn(bundle, monkeypatch, recwarn, arch):
    monkeypatch.setattr("mscsa_deploy.core.environment.platform.machine", lambda: "AMD64")
    manifest = msgspec.structs.replace(bundle.manifest, environment={"arch": arch})
    with load(Bundle(bundle.root, manifest)):
        pass
    assert [each for each in recwarn if each.category is RuntimeWarning] == []


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


def test_predict_unreadable_picture_refused(bundle):
    with load(bundle, runtime="onnxruntime") as runner:
        with pytest.raises(UserError, match="not a readable picture"):
            runner.predict(b"GIF89a but not really")
        with pytest.raises(SpecError, match="expected"):
            runner.predict(np.zeros((4, 4), np.uint8))


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
