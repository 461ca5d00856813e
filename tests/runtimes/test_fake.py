from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.runtimes.fake import Fake, FakeModel, FakeTensor, write_fake
from mscsa_deploy.runtimes.protocol import SessionSettings

X = np.arange(6, dtype=np.float32).reshape(1, 6)


@pytest.fixture
def file(tmp_path):
    def make(**fields):
        signature = {
            "inputs": (FakeTensor(name="x", shape=(-1, 6)),),
            "outputs": (FakeTensor(name="y", shape=(-1, 3)),),
        }
        return write_fake(tmp_path / "m.fake", FakeModel(**signature, **fields))

    return make


def test_it_answers_with_gain_and_offset(file):
    with Fake().load(file(gain=2.0, offset=1.0), SessionSettings()) as session:
        assert session.run({"x": X})["y"].tolist() == [[1, 3, 5]]


def test_options_replace_the_files_settings(file):
    settings = SessionSettings(options={"gain": -1.0, "executed_precision": "int8+fp32"})
    with Fake().load(file(gain=2.0), settings) as session:
        assert session.run({"x": X})["y"].tolist() == [[0, -1, -2]]
        assert session.executed_precision == "int8+fp32"


def test_a_wrong_option_value_is_the_users(file):
    with pytest.raises(UserError, match="latency_ms"):
        Fake().load(file(), SessionSettings(options={"latency_ms": "slow"}))


def test_a_callable_may_answer(file):
    fake = Fake(answer=lambda feed: {"y": feed["x"][:, ::2]})
    with fake.load(file(), SessionSettings()) as session:
        assert session.run({"x": X})["y"].tolist() == [[0, 2, 4]]


def test_a_free_batch_is_echoed(file):
    with Fake().load(file(), SessionSettings()) as session:
        assert session.run({"x": np.repeat(X, 4, axis=0)})["y"].shape == (4, 3)


def test_latency_is_never_shorter_than_told(file):
    with Fake().load(file(latency_ms=3.0), SessionSettings()) as session:
        spans = []
        for _ in range(10):
            begin = time.perf_counter_ns()
            session.run({"x": X})
            spans.append(time.perf_counter_ns() - begin)
    assert min(spans) >= 3_000_000
    # A busy machine delays single calls, hardly the fastest of ten.
    assert min(spans) < 4_500_000


@pytest.mark.parametrize(("latency", "spread"), [("normal", 0.1), ("lognormal", 0.1)])
def test_latencies_follow_the_seeded_distribution(file, latency, spread):
    settings = SessionSettings(options={"latency": latency, "spread": spread, "latency_ms": 10.0, "seed": 5})
    draws = [Fake().load(file(), settings) for _ in range(2)]
    one, other = ([session._draw_ns() / 1e6 for _ in range(4000)] for session in draws)
    assert one == other
    # The median of 4,000 draws has a standard error of 1.25 * 1 ms / 63 = 0.02 ms.
    assert np.median(one) == pytest.approx(10.0, abs=0.1)
    assert np.std(one) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("moment", ["load", "run"])
def test_it_fails_on_demand(file, moment):
    with pytest.raises(StageError, match=f"told to fail {'at load' if moment == 'load' else 'in a run'}"):
        Fake().load(file(fail=moment), SessionSettings()).run({"x": X})


def test_it_can_take_the_process_down(file):
    path = file(fail="exit")
    code = (
        "import sys, numpy, pathlib\n"
        "from mscsa_deploy.runtimes.fake import Fake\n"
        "from mscsa_deploy.runtimes.protocol import SessionSettings\n"
        "session = Fake().load(pathlib.Path(sys.argv[1]), SessionSettings())\n"
        "session.run({'x': numpy.zeros((1, 6), 'float32')})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert done.returncode == 139


def test_it_holds_memory_on_demand(file):
    session = Fake().load(file(resident_mb=3), SessionSettings())
    assert session._ballast.nbytes == 3 << 20
    session.close()
    assert session._ballast.nbytes == 0


def test_a_file_that_declares_nothing_is_the_users(tmp_path):
    with pytest.raises(UserError, match="declares no inputs"):
        Fake().load(write_fake(tmp_path / "m.fake", FakeModel()), SessionSettings())
