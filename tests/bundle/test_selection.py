"""Which of a bundle's files runs on this machine, in what arithmetic, and what is warned of."""

from __future__ import annotations

import msgspec
import pytest

from mscsa_deploy.bundle.manifest import Choice, Postprocess, Tensor
from mscsa_deploy.bundle.selection import candidates, select, twin_of
from mscsa_deploy.bundle.store import Bundle
from mscsa_deploy.core.report import Metric
from mscsa_deploy.errors import UnsupportedError
from mscsa_deploy.runner import load


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
