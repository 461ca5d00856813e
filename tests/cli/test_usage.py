"""Mistakes on the command line are told in words, with exit code 2, before any work."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("number", ["nan", "inf", "-0.5", "half"])
@pytest.mark.parametrize(
    "arguments",
    [
        "quantize net.onnx --for openvino -o out --max-drop",
        "deploy topformer_t_mscsa.seg -o out --max-drop",
        "verify a.onnx b.onnx --images pictures --max-drop",
        "verify a.onnx b.onnx --images pictures --tolerance logits.cosine=",
        "benchmark net.onnx --rate",
        "serve bundle --deadline",
        "serve bundle --batch-delay",
    ],
)
def test_what_is_no_quantity_is_refused_before_anything_is_opened(cli, arguments, number):
    *before, last = arguments.split()
    values = [f"{last}{number}"] if last.endswith("=") else [last, number]
    outcome = cli(*before, *values, "--json")
    assert outcome.code == 2
    assert number in outcome.json["error"]["message"]


def test_unknown_command_offers_the_nearest(cli):
    outcome = cli("modles")
    assert outcome.code == 2
    assert outcome.err == "error: unknown command 'modles'; did you mean 'models'?\n"
    assert outcome.out == ""


def test_unknown_option_says_where_help_is(cli):
    outcome = cli("models", "--jsn")
    assert outcome.code == 2
    assert "--jsn" in outcome.err
    assert "'mscsa-deploy models --help'" in outcome.err


@pytest.mark.parametrize(
    "command",
    ["predict bundle picture.png", "verify bundle", "benchmark bundle", "deploy topformer_t_mscsa.seg", "serve bundle"],
)
def test_so_many_threads_as_no_machine_has_are_refused(cli, command):
    outcome = cli(*command.split(), "--threads", "99999")
    assert outcome.code == 2
    assert "99999 is not in the range 1<=x<=1024" in outcome.err


def test_missing_argument_is_the_users_mistake(cli):
    outcome = cli("predict")
    assert outcome.code == 2
    assert "BUNDLE" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--runtime", ""], "it names nothing", id="empty list"),
        pytest.param(["--runtime", "onnxrt"], "unknown runtime 'onnxrt'; did you mean 'onnxruntime'?", id="runtime"),
        pytest.param(["--device", "toaster"], "unknown device profile 'toaster'; known: arm64", id="profile"),
    ],
)
def test_wrong_names_are_told_before_any_work(cli, options, words, tmp_path):
    outcome = cli("deploy", "topformer_t_mscsa.seg", *options, "-o", tmp_path / "out", "-q")
    assert outcome.code == 2
    assert words in outcome.err


def test_errors_are_one_document_with_json(cli):
    outcome = cli("inspect", "nowhere", "--json")
    assert outcome.code == 2
    assert set(outcome.json["error"]) == {"kind", "message", "hint"}
    assert outcome.json["error"]["kind"] == "user"
    assert outcome.err.startswith("error: there is nothing at 'nowhere'; ")


def test_usage_errors_are_one_document_with_json(cli):
    assert cli("models", "--nope", "--json").json["error"]["kind"] == "user"
