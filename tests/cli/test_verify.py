"""`verify`: outputs and accuracy side by side, gates, and the first node that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.report import Row
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow.contest import paired
from mscsa_deploy.workflow.divergence import search_limit
from mscsa_deploy.workflow.verify import _exit_code

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

PREPROCESS = """
height = 64
width = 64
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"""


@pytest.fixture
def images(make, tmp_path):
    return make.image_set(tmp_path / "set")


@pytest.fixture
def bare(make, tmp_path):
    return make.image_set(tmp_path / "bare", masks=False)


@pytest.fixture
def reference(make, tmp_path):
    return make.network(tmp_path / "reference.onnx")


def gates(document):
    return {gate["subject"]: gate["passed"] for gate in document["gates"]}


def test_network_that_takes_pixels_agrees_with_the_one_that_takes_values(cli, make, images, reference, tmp_path):
    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.pixels import take_pixels

    model = read_model(reference)
    take_pixels(model, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    candidate = tmp_path / "pixels.onnx"
    candidate.write_bytes(to_bytes(model))

    outcome = cli("verify", reference, candidate, "--images", images, "--json", "-q")

    assert outcome.code == 0
    assert {row["parity"]["argmax_agreement"] for row in outcome.json["rows"] if row["status"] == "ok"} == {100.0}


def test_the_same_network_agrees_on_every_runtime(cli, make, images, reference, tmp_path):
    candidate = make.network(tmp_path / "candidate.onnx")
    outcome = cli("verify", reference, candidate, "--images", images, "--json", "-q")
    assert outcome.code == 0
    document = outcome.json
    assert document["passed"] is True
    assert {row["runtime"] for row in document["rows"] if row["status"] == "ok"} == {"onnxruntime", "openvino"}
    assert (document["images"], document["labeled"], document["task"]) == (3, 3, "seg")
    for row in document["rows"]:
        assert row["parity"]["argmax_agreement"] == 100.0
        # Sums in another order, on values below 10.
        assert row["parity"]["max_abs"] < 1e-4
        assert row["metric"]["drop"] == 0.0
        assert row["metric"]["value"] == document["reference"]["metric"]["value"] > 80.0
        assert row["executed_precision"] == "fp32"


def test_people_see_reference_candidates_and_gates(cli, make, images, reference):
    outcome = cli("verify", reference, reference, "--images", images, "--runtime", "onnxruntime")
    assert outcome.code == 0
    assert "mIoU" in outcome.out
    assert "3 images of" in outcome.out
    assert "passed reference.onnx on onnxruntime in fp32" in outcome.out


def test_a_planted_fault_fails_and_bisect_names_its_node(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--bisect", "--json", "-q")
    assert outcome.code == 5
    document = outcome.json
    assert document["error"]["kind"] == "gate"
    assert set(gates(document).values()) == {False}
    assert len(document["divergences"]) == 2  # both runtimes
    for found in document["divergences"]:
        assert found["found"] is True
        assert (found["node"], found["op"], found["tensor"]) == ("node_scaled", "Mul", "scaled")
        assert found["agreeing"] == ["bent"]


def test_bisect_names_the_node_whose_value_int8_clips(cli, make, bare, tmp_path):
    reference = make.network(tmp_path / "reference.onnx")
    # `bent` reaches 0.68; a step of 0.001 clips it at 0.255.
    wrong = make.network(tmp_path / "wrong.onnx", make.quantized, info=False, STEP=0.001)
    outcome = cli(
        "verify", reference, wrong, "--images", bare, "--runtime", "onnxruntime", "--tolerance", "logits.sqnr_db=20",
        "--bisect", "--json", "-q",
    )  # fmt: skip
    assert outcome.code == 5
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["tensor"]) == ("node_bent", "bent")
    assert found["agreeing"] == ["pooled"]


def test_bisect_is_not_misled_by_a_relu_that_a_quantizer_replaced(cli, make, bare, tmp_path):
    # In INT8 `bent` holds what comes before the Relu, and its quantizer, whose range begins at zero, clips it.
    half = ("float[1] one = {1.0}", "float[1] one = {1.0}, float[1] half = {0.4}")
    text = make.segmenter.replace(*half).replace("bent = Tanh(pooled)", "low = Sub(pooled, half)\n    bent = Relu(low)")
    int8 = make.quantized.replace(*half).replace("bent = Tanh(pooled)", "bent = Sub(pooled, half)")
    reference = make.network(tmp_path / "reference.onnx", text)
    # The fault is one node later.
    wrong = make.network(tmp_path / "wrong.onnx", int8.replace("gain = {2.0}", "gain = {3.0}"), info=False)
    outcome = cli(
        "verify", reference, wrong, "--images", bare, "--runtime", "onnxruntime", "--tolerance", "logits.sqnr_db=60",
        "--bisect", "--json", "-q",
    )  # fmt: skip
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["agreeing"]) == ("node_scaled", ["bent"])


def test_bisect_is_told_in_one_line(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--bisect", "--runtime", "onnxruntime")
    words = " ".join(outcome.out.split())
    assert "diverges first at node 'node_scaled' (Mul), tensor 'scaled'" in words
    assert "--bisect" not in outcome.err


def test_without_bisect_the_error_says_that_it_exists(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--runtime", "onnxruntime")
    assert outcome.code == 5
    assert "--bisect finds where it starts" in outcome.err


def test_good_int8_passes_by_the_task_metric_where_there_are_labels(cli, make, images, reference, tmp_path):
    int8 = make.network(tmp_path / "int8.onnx", make.quantized, info=False)
    document = cli("verify", reference, int8, "--images", images, "--runtime", "onnxruntime", "--json", "-q").json
    (gate,) = document["gates"]
    assert gate["passed"] is True
    assert gate["asked"].startswith("mIoU drop at most 0.5 points")
    assert document["rows"][0]["precision"] == "int8"


def test_int8_passes_by_agreement_where_there_are_none_and_says_so(cli, make, bare, reference, tmp_path):
    int8 = make.network(tmp_path / "int8.onnx", make.quantized, info=False)
    document = cli("verify", reference, int8, "--images", bare, "--runtime", "onnxruntime", "--json", "-q").json
    (gate,) = document["gates"]
    assert "logits.argmax_agreement >= 99 (no labels, so agreement decides)" in gate["asked"]
    assert document["labeled"] == 0
    assert document["reference"]["metric"] is None


def test_an_int8_drop_beyond_the_budget_fails(cli, make, images, reference, tmp_path):
    # Everything clips to the same value, so the classes are lost.
    wrong = make.network(tmp_path / "wrong.onnx", make.quantized, info=False, STEP=0.00001)
    arguments = ("verify", reference, wrong, "--images", images, "--runtime", "onnxruntime")
    outcome = cli(*arguments)
    assert outcome.code == 5
    assert "mIoU drop" in outcome.err
    generous = cli(*arguments, "--max-drop", "100", "--json", "-q").json
    # The floor of 96 % of the reference stays, whatever the budget.
    assert generous["passed"] is False


@pytest.mark.parametrize(("limit", "code"), [("1e-9", 5), ("10", 0)])
def test_a_tolerance_of_ones_own_decides(cli, make, images, reference, *, tmp_path, limit, code):
    close = make.network(tmp_path / "close.onnx", GAIN=2.0005)
    outcome = cli(
        "verify", reference, close, "--images", images, "--runtime", "onnxruntime",
        "--tolerance", f"logits.max_abs_over_range={limit}", "--tolerance", "logits.argmax_agreement=90",
    )  # fmt: skip
    assert outcome.code == code


def test_a_bundle_is_verified_artifact_by_artifact(cli, make, images, reference, tmp_path):
    bundle = make.bundle(tmp_path / "bundle")
    document = cli("verify", reference, bundle, "--images", images, "--json", "-q").json
    assert [(row["artifact"], row["runtime"]) for row in document["rows"]] == [
        ("model.onnx", "onnxruntime"),
        ("model.onnx", "openvino"),
    ]
    assert cli("verify", bundle, reference, "--images", images, "-q").code == 0


def test_an_openvino_file_takes_part(cli, make, images, reference, tmp_path):
    import openvino

    openvino.save_model(openvino.convert_model(reference), tmp_path / "model.xml", compress_to_fp16=False)
    document = cli("verify", reference, tmp_path / "model.xml", "--images", images, "--json", "-q").json
    (row,) = document["rows"]
    assert (row["runtime"], row["status"]) == ("openvino", "ok")
    assert row["size_bytes"] > (tmp_path / "model.xml").stat().st_size


def test_files_of_one_name_are_told_apart(cli, make, images, reference, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make.network(tmp_path / folder / "model.onnx", GAIN=2.0 if folder == "a" else 2.5)
    outcome = cli(
        "verify", reference, tmp_path / "a" / "model.onnx", tmp_path / "b" / "model.onnx", "--images", images,
        "--runtime", "onnxruntime", "--json", "-q",
    )  # fmt: skip
    assert outcome.code == 5
    assert list(gates(outcome.json).values()) == [True, False]


def test_classification_has_top_1(cli, make, tmp_path):
    for label in ("red", "green"):
        (tmp_path / "set" / label).mkdir(parents=True)
        make.picture(tmp_path / "set" / label / f"{label}.png")
    net = make.network(tmp_path / "net.onnx", make.classifier, task="cls")
    document = cli("verify", net, net, "--images", tmp_path / "set", "--runtime", "onnxruntime", "--json", "-q").json
    assert document["rows"][0]["metric"]["name"] == "top-1"
    assert document["task"] == "cls"


def test_a_foreign_file_needs_task_and_preprocessing(cli, make, images, tmp_path):
    foreign = make.network(tmp_path / "foreign.onnx", info=False)
    arguments = ["verify", foreign, foreign, "--images", images, "--runtime", "onnxruntime", "-q"]
    outcome = cli(*arguments)
    assert (outcome.code, "--task cls or --task seg" in outcome.err) == (2, True)
    outcome = cli(*arguments, "--task", "seg")
    assert (outcome.code, "--preprocess FILE" in outcome.err) == (2, True)
    (tmp_path / "pre.toml").write_text(PREPROCESS)
    assert cli(*arguments, "--task", "seg", "--preprocess", tmp_path / "pre.toml").code == 0


def test_models_that_see_different_inputs_are_not_compared(cli, make, images, reference, tmp_path):
    from mscsa_deploy.graphs.metadata import ModelInfo, write_info

    other = make.network(tmp_path / "other.onnx")
    spec = to_plain(Preprocess(height=64, width=64, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)))
    write_info(other, ModelInfo(name="colors", task="seg", preprocess=spec))
    outcome = cli("verify", reference, other, "--images", images)
    assert outcome.code == 2
    assert "wants another preprocessing than 'reference.onnx': mean" in outcome.err


def test_a_runtime_that_was_named_and_is_missing_is_exit_3_after_the_rest(cli, reference, images, monkeypatch):
    from mscsa_deploy.runtimes.openvino import OpenVino
    from mscsa_deploy.runtimes.protocol import Capabilities

    gone = Capabilities(False, "openvino is not installed", "pip install openvino", "", (), ())
    monkeypatch.setattr(OpenVino, "probe", lambda _: gone)
    unnamed = cli("verify", reference, reference, "--images", images, "--json", "-q")
    assert unnamed.code == 0
    assert [row["status"] for row in unnamed.json["rows"]] == ["ok", "not run"]
    named = cli("verify", reference, reference, "--images", images, "--runtime", "onnxruntime,openvino")
    assert named.code == 3
    assert "pip install openvino" in named.err
    assert "passed reference.onnx on onnxruntime" in named.out


def test_a_candidate_that_breaks_is_exit_4_after_the_rest(cli, reference, images, monkeypatch):
    from mscsa_deploy.errors import StageError
    from mscsa_deploy.runtimes.openvino import OpenVino

    def fail(*args):
        raise StageError("compile", "model", "planted")

    monkeypatch.setattr(OpenVino, "load", fail)
    outcome = cli("verify", reference, reference, "--images", images, "--json", "-q")
    assert outcome.code == 4
    assert [row["status"] for row in outcome.json["rows"]] == ["ok", "failed"]
    assert "planted" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("nowhere.onnx", "@", "--images", "@set"), "there is no file 'nowhere.onnx'", id="no reference"),
        pytest.param(("@", "nowhere.onnx", "--images", "@set"), "there is no file 'nowhere.onnx'", id="no candidate"),
        pytest.param(("@", "topformer_t_mcsa", "--images", "@set"), "did you mean", id="unknown model"),
        pytest.param(("@", "@", "--images", "nothing"), "there are no images at 'nothing'", id="no images"),
        pytest.param(("@", "@"), "--images", id="images not said"),
        pytest.param(("@", "@", "--images", "@set", "--runtime", "opnvino"), "did you mean 'openvino'", id="runtime"),
        pytest.param(("@", "@", "--images", "@set", "--runtime", "pytorch"), "loads none of the candidates", id="kind"),
        pytest.param(("@", "@", "--images", "@set", "--tolerance", "x"), "OUTPUT.METRIC=VALUE", id="tolerance"),
        pytest.param(
            ("@", "@", "--images", "@set", "--runtime", "onnxruntime", "--tolerance", "logit.cosine=1"),
            "did you mean 'logits'",
            id="unknown output",
        ),
        pytest.param(("@", "@wide", "--images", "@set", "--runtime", "onnxruntime"), "expected one picture", id="size"),
    ],
)
def test_mistakes_are_told(cli, make, images, reference, *, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    wide = make.segmenter.replace("3, 64, 64", "3, 64, 128").replace("3, 8, 8", "3, 8, 16")
    make.network(tmp_path / "wide.onnx", wide, info=False)
    places = {"@": reference, "@set": images, "@wide": "wide.onnx"}
    outcome = cli("verify", *(places.get(argument, argument) for argument in arguments))
    assert outcome.code == 2
    assert words in outcome.err


def row(status, runtime="openvino"):
    return Row(runtime=runtime, precision="fp32", status=status)


@pytest.mark.parametrize(
    ("statuses", "passed", "named", "code"),
    [
        (("ok",), True, None, 0),
        (("ok", "not run"), True, None, 0),
        (("ok", "not run"), True, ("openvino",), 3),
        (("not run",), True, None, 3),
        (("ok", "failed", "not run"), True, ("openvino",), 4),
        (("ok", "failed"), False, None, 5),
    ],
)
def test_the_gravest_ending_decides_the_exit_code(statuses, passed, named, code):
    assert _exit_code([row(status) for status in statuses], passed=passed, named=named) == code


def test_outputs_are_paired_by_name_and_else_in_order():
    one, two = np.zeros(1), np.ones(1)
    assert paired({"a": one, "b": two}, {"b": two, "a": one}) == {"a": one, "b": two}
    assert paired({"a": one}, {"x": two}) == {"a": two}
    with pytest.raises(Exception, match="the candidate"):
        paired({"a": one}, {"x": one, "y": two})


def parity(**changes):
    from mscsa_deploy.parity.compare import Parity

    fields = {"max_abs": 1.0, "max_abs_over_range": 0.1, "cosine": 0.9, "argmax_agreement": 90.0, "sqnr_db": 5.0}
    return Parity(**{**fields, **changes}, images=1, nonfinite=0, worst=())


def test_the_search_looks_for_less_than_the_outputs_error():
    assert search_limit(parity(), "int8").limits() == {"sqnr_db": 8.0}
    assert search_limit(parity(), "fp32").limits() == {"max_abs_over_range": 1e-3}
    assert search_limit(parity(max_abs_over_range=4e-4), "fp32").limits() == {"max_abs_over_range": 2e-4}
    assert search_limit(parity(), "bf16").limits() == {"max_abs_over_range": 0.05}
    infinite = parity(max_abs_over_range=float("inf"), sqnr_db=float("-inf"))
    assert search_limit(infinite, "fp32").limits() == {"max_abs_over_range": 1e-3}
    assert search_limit(infinite, "int8").limits() == {"sqnr_db": 10.0}


def test_models_of_the_zoo_and_pytorch_files_take_part(cli, bare, tmp_path):
    pytest.importorskip("torch")
    from mscsa_deploy.workflow.prepare import ModelRequest, prepare

    model = {"model": "topformer_t", "task": "seg", "num_classes": 3, "size": (64, 64)}
    prepare(ModelRequest(**model, random_weights=4)).save(tmp_path / "seed4.safetensors")
    zoo = ("--task", "seg", "--random-weights", "3", "--num-classes", "3", "--size", "64", "--images", bare)
    outcome = cli(
        "verify", "topformer_t", tmp_path / "seed4.safetensors", *zoo, "--bisect", "--json", "-q"
    )  # fmt: skip
    assert outcome.code == 5
    document = outcome.json
    assert document["reference"]["runtime"] == "pytorch"
    (row,) = document["rows"]
    assert (row["runtime"], row["status"]) == ("pytorch", "ok")
    assert list(gates(document).values()) == [False]
    assert "only ONNX files can be opened up" in document["divergences"][0]["reason"]


def test_a_checkpoint_without_a_model_header_is_refused(cli, bare, reference, tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    outcome = cli("verify", reference, tmp_path / "w.safetensors", "--images", bare)
    assert outcome.code == 2
    assert "--checkpoint" in outcome.err
