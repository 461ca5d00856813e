"""`verify`: outputs and accuracy side by side, gates, exit codes, and what people are told."""

from __future__ import annotations

import pytest

from mscsa_deploy.core.report import Row
from mscsa_deploy.workflow.verify import _exit_code

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


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
