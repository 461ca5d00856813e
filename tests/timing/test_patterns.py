"""Load patterns against calls whose duration is known."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from mscsa_deploy.timing import patterns
from mscsa_deploy.timing.patterns import Span, back_to_back, paced, throughput


class VirtualTime:
    """Stands in for the module `time`: it only passes in calls and sleeps, however busy the machine is."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(round(seconds * 1e9), 1)

    def call_of(self, ms: float):
        def call(number: int) -> dict[str, int]:
            self.sleep(ms / 1e3)
            return {"network": number}

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    virtual = VirtualTime()
    monkeypatch.setattr(patterns, "time", virtual)
    return virtual


def _busy(ms: float):
    def call(number: int) -> dict[str, int]:
        end = time.perf_counter_ns() + int(ms * 1e6)
        while time.perf_counter_ns() < end:
            pass
        return {"network": number}

    return call


@pytest.mark.parametrize(
    ("span", "elapsed_ns", "runs", "over"),
    [
        (Span(10, 1.0, 5.0), 2_000_000_000, 9, False),
        (Span(10, 1.0, 5.0), 500_000_000, 99, False),
        (Span(10, 1.0, 5.0), 1_000_000_000, 10, True),
        (Span(10, 1.0, 5.0), 5_000_000_000, 1, True),
    ],
    ids=["too few", "too short", "both reached", "capped"],
)
def test_a_block_needs_time_and_count_or_the_cap(span: Span, elapsed_ns: int, runs: int, over: bool) -> None:
    assert span.over(runs, elapsed_ns) is over


def test_back_to_back_rotates_inputs_and_times_only_the_call(clock: VirtualTime) -> None:
    taken = back_to_back(clock.call_of(1.0), Span(20, 0.0, 5.0), first=7)
    assert taken.parts_ns == {"network": list(range(7, 27))}
    assert taken.samples_ns == [1_000_000] * 20
    assert taken.wall_ns == 20_000_000


def test_the_real_clock_never_reads_less_than_the_call_took() -> None:
    taken = back_to_back(_busy(1.0), Span(5, 0.0, 5.0))
    assert min(taken.samples_ns) >= 1_000_000
    assert taken.wall_ns >= sum(taken.samples_ns)


def test_the_collector_rests_during_a_block_and_works_after_it() -> None:
    seen = []
    back_to_back(lambda _: seen.append(gc.isenabled()) or {}, Span(3, 0, 1))
    assert seen == [False] * 3
    assert gc.isenabled()


def test_paced_run_keeps_the_rate_and_misses_nothing_when_calls_are_short(clock: VirtualTime) -> None:
    taken = paced(clock.call_of(0.2), 200.0, Span(20, 0.0, 5.0))
    assert (taken.arrivals, taken.missed) == (20, 0)
    assert taken.samples_ns == [200_000] * 20
    # Nineteen gaps of 5 ms and the last call; a wake-up costs the virtual clock at most a nanosecond.
    assert taken.wall_ns == pytest.approx(95_200_000, abs=100)
    assert taken.response_ns == pytest.approx([200_000] * 20, abs=100)


def test_paced_run_takes_the_newest_and_misses_what_it_cannot_keep_up_with(clock: VirtualTime) -> None:
    taken = paced(clock.call_of(10.0), 250.0, Span(12, 0.0, 5.0))
    # Frames every 4 ms, calls of 10 ms: of five frames in 20 ms two are answered.
    assert taken.parts_ns["network"][:4] == [0, 2, 5, 7]
    assert taken.arrivals == taken.missed + 12
    assert taken.missed == pytest.approx(12 * 1.5, abs=2)


def test_streams_count_together_and_errors_come_out() -> None:
    taken = throughput([_busy(0.5)] * 3, Span(30, 0.0, 5.0))
    assert len(taken.samples_ns) == 30
    assert taken.wall_ns > 0

    def broken(number: int) -> dict[str, int]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        throughput([_busy(0.1), broken], Span(4, 0.0, 5.0))


def test_the_collector_rests_until_the_last_stream_has_ended() -> None:
    begun, seen = threading.Event(), []

    def short(number: int) -> dict[str, int]:
        begun.wait(timeout=5)
        return {}

    def long(number: int) -> dict[str, int]:
        begun.set()
        time.sleep(0.02)
        seen.append(gc.isenabled())
        return {}

    throughput([short, long], Span(10, 0.0, 5.0))
    assert seen == [False] * 5
    assert gc.isenabled()
