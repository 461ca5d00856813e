"""What every runtime must do, whatever library is behind it; a new one needs no new test here."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from mscsa_deploy.errors import SpecError, UnsupportedError, UserError
from mscsa_deploy.runtimes.protocol import KINDS, PRECISIONS

# float32 against exact arithmetic: sums of up to 256 products of size 1 differ by some 1e-6 of the range.
FP32_OVER_RANGE = 1e-5
# One step of the output scale: a runtime may round a tie, or a product, the other way.
INT8_STEPS = 1.01


def over_range(got, want):
    return float(np.abs(got - want).max() / (want.max() - want.min()))


def test_probe_describes_the_runtime(runtime):
    can = runtime.probe()
    assert can.version
    assert can.devices
    assert set(can.precisions) <= set(PRECISIONS)
    assert "fp32" in can.precisions
    assert set(runtime.accepts) <= set(KINDS.values())


def test_declared_tensors_are_the_models(runtime, case, settings):
    with runtime.load(case.path, settings) as session:
        (image,) = session.inputs
        (logits,) = session.outputs
        image.check(case.feed["image"])
        logits.check(session.run(case.feed)["logits"])
        assert (image.name, logits.name) == ("image", "logits")


def test_fp32_equals_the_reference(runtime, case, settings):
    with runtime.load(case.path, settings) as session:
        answers = session.run(case.feed)
    assert set(answers) == set(case.expected)
    for name, want in case.expected.items():
        assert over_range(answers[name], want) < FP32_OVER_RANGE


def test_fp32_really_executes_fp32(runtime, case, settings):
    with runtime.load(case.path, settings) as session:
        assert session.executed_precision == "fp32"


def test_outputs_survive_the_next_run(runtime, case, settings):
    with runtime.load(case.path, settings) as session:
        first = session.run(case.feed)["logits"]
        kept = first.copy()
        second = session.run({"image": -case.feed["image"]})["logits"]
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert not np.shares_memory(first, second)


def test_outputs_survive_the_session(runtime, case, settings):
    session = runtime.load(case.path, settings)
    first = session.run(case.feed)["logits"]
    kept = first.copy()
    session.close()
    assert np.array_equal(first, kept)


def test_inputs_are_left_as_they_are(runtime, case, settings):
    feed = {"image": case.feed["image"].copy()}
    feed["image"].flags.writeable = False
    with runtime.load(case.path, settings) as session:
        session.run(feed)
    assert np.array_equal(feed["image"], case.feed["image"])


def test_a_strided_view_gives_the_same_answer(runtime, case, settings):
    channels_last = np.ascontiguousarray(case.feed["image"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not channels_last.flags.c_contiguous
    with runtime.load(case.path, settings) as session:
        want = session.run(case.feed)["logits"]
        assert over_range(session.run({"image": channels_last})["logits"], want) < FP32_OVER_RANGE


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda image: {"picture": image}, id="name"),
        pytest.param(lambda _: {}, id="missing"),
        pytest.param(lambda image: {"image": image, "mask": image}, id="extra"),
        pytest.param(lambda image: {"image": image.astype(np.float64)}, id="dtype"),
        pytest.param(lambda image: {"image": image[:, :, :-1]}, id="shape"),
        pytest.param(lambda image: {"image": image[0]}, id="rank"),
        pytest.param(lambda image: {"image": image.tolist()}, id="list"),
    ],
)
def test_a_wrong_feed_is_refused(runtime, case, settings, spoil):
    with runtime.load(case.path, settings) as session, pytest.raises(SpecError):
        session.run(spoil(case.feed["image"]))


def test_a_closed_session_refuses(runtime, case, settings):
    session = runtime.load(case.path, settings)
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.run(case.feed)


def test_two_sessions_do_not_disturb_each_other(runtime, case, settings):
    with runtime.load(case.path, settings) as one, runtime.load(case.path, settings) as other:
        want = one.run(case.feed)["logits"]
        other.run({"image": -case.feed["image"]})
        assert np.array_equal(one.run(case.feed)["logits"], want)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_read_back(runtime, case, settings, threads):
    if settings.device != "cpu":
        pytest.skip(f"{runtime.name} computes on {settings.device}")
    with runtime.load(case.path, replace(settings, threads=threads)) as session:
        assert session.threads == threads


def test_one_thread_uses_one_core(runtime, case, settings):
    with runtime.load(case.path, settings) as session:
        for _ in range(3):
            session.run(case.feed)
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < 0.25:
            session.run(case.feed)
        used = (time.process_time() - cpu) / (time.perf_counter() - wall)
    # A second computing or spinning thread would use up to 2; some housekeeping of the process is allowed.
    assert used < 1.3


def test_profile_adds_up_to_what_ran(runtime, case, settings):
    profile = runtime.profile(case.path, settings, case.feed, runs=3)
    assert (profile.runtime, profile.precision, profile.runs) == (runtime.name, "fp32", 3)
    assert profile.rows
    assert all(row.op and row.count >= 1 for row in profile.rows)
    assert [row.ms for row in profile.rows] == sorted((row.ms for row in profile.rows), reverse=True)
    assert sum(profile.ms_by("op").values()) == pytest.approx(profile.total_ms)


def test_profile_refuses_a_wrong_feed(runtime, case, settings):
    with pytest.raises(SpecError):
        runtime.profile(case.path, settings, {"image": case.feed["image"][:, :1]}, runs=1)


def test_a_missing_file_is_the_users(runtime, case, settings, tmp_path):
    with pytest.raises(UserError, match="there is no model file"):
        runtime.load(tmp_path / f"none{case.path.suffix}", settings)


@pytest.mark.parametrize("content", [b"", b"garbage \x00\xff" * 50], ids=["empty", "garbage"])
def test_a_damaged_file_is_the_users(runtime, case, settings, tmp_path, content):
    path = tmp_path / f"damaged{case.path.suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError):
        runtime.load(path, settings)


def test_a_truncated_file_is_the_users(runtime, case, settings, tmp_path):
    path = tmp_path / f"short{case.path.suffix}"
    path.write_bytes(case.path.read_bytes()[:-200])
    with pytest.raises(UserError):
        runtime.load(path, settings)


def test_a_foreign_kind_of_file_is_the_users(runtime, settings, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="cannot load"):
        runtime.load(path, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"threads": 0}, "at least one thread", id="threads"),
        pytest.param({"precision": "fp23"}, "did you mean 'fp32'", id="precision"),
        pytest.param({"options": {"no_such_option": 1}}, "unknown .* option 'no_such_option'", id="option"),
    ],
)
def test_wrong_settings_are_the_users(runtime, case, settings, change, message):
    with pytest.raises(UserError, match=message):
        runtime.load(case.path, replace(settings, **change))


def test_a_missing_device_is_unsupported(runtime, case, settings):
    with pytest.raises(UnsupportedError, match="has no device 'tpu'"):
        runtime.load(case.path, replace(settings, device="tpu"))


def test_a_precision_it_cannot_execute_is_unsupported(runtime, case, settings):
    for precision in set(PRECISIONS) - set(runtime.probe().precisions):
        with pytest.raises(UnsupportedError, match=precision):
            runtime.load(case.path, replace(settings, precision=precision))


def test_an_int8_file_runs_in_int8(runtime, settings, quantized_case):
    if "onnx" not in runtime.accepts or runtime.name == "fake":
        pytest.skip(f"{runtime.name} does not compute ONNX files")
    with runtime.load(quantized_case.path, replace(settings, precision="int8")) as session:
        answer = session.run(quantized_case.feed)["logits"]
        assert "int8" in session.executed_precision.split("+")
    assert np.abs(answer - quantized_case.expected["logits"]).max() <= INT8_STEPS * 0.05
