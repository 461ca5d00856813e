"""Load patterns against calls whose duration is known."""

from __future__ import annotations

import gc
import time

import pytest

from mscsa_deploy.timing.patterns import Span, back_to_back, paced, throughput


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


def test_back_to_back_rotates_inputs_and_times_only_the_call() -> None:
    taken = back_to_back(_busy(1.0), Span(20, 0.0, 5.0), first=7)
    assert taken.parts_ns == {"network": list(range(7, 27))}
    assert len(taken.samples_ns) == 20
    # A spin of 1 ms cannot take less; the median of 20 is not hit by a busy machine's interruptions.
    assert min(taken.samples_ns) >= 1_000_000
    assert sorted(taken.samples_ns)[10] < 1_500_000
    assert taken.wall_ns >= sum(taken.samples_ns)


def test_the_collector_rests_during_a_block_and_works_after_it() -> None:
    seen = []
    back_to_back(lambda _: seen.append(gc.isenabled()) or {}, Span(3, 0, 1))
    assert seen == [False] * 3
    assert gc.isenabled()


def test_paced_run_keeps_the_rate_and_misses_nothing_when_calls_are_short() -> None:
    taken = paced(_busy(0.2), 200.0, Span(20, 0.0, 5.0))
    assert taken.arrivals >= 20
    # A busy machine may delay a wake-up beyond 5 ms now and then.
    assert taken.missed <= 4
    assert taken.wall_ns >= 19 * 5_000_000
    assert all(r >= s for r, s in zip(taken.response_ns, taken.samples_ns, strict=True))


def test_paced_run_misses_what_it_cannot_keep_up_with() -> None:
    taken = paced(_busy(10.0), 250.0, Span(12, 0.0, 5.0))
    # Each call spans 2.5 arrivals, so at least one or two of three frames are replaced by a newer one.
    assert taken.missed >= 12
    assert taken.arrivals == taken.missed + len(taken.samples_ns)


def test_streams_count_together_and_errors_come_out() -> None:
    taken = throughput([_busy(0.5)] * 3, Span(30, 0.0, 5.0))
    assert len(taken.samples_ns) >= 30
    assert taken.wall_ns > 0

    def broken(number: int) -> dict[str, int]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        throughput([_busy(0.1), broken], Span(4, 0.0, 5.0))
