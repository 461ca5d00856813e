"""The statistics against closed forms, exact arithmetic and simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mscsa_deploy.errors import UserError
from mscsa_deploy.timing.statistics import (
    NS_PER_MS,
    drift,
    early_stopping_estimate,
    early_stopping_rank,
    judge,
    paired_ratio,
    percentile,
    percentile_interval,
    rank_sum_z,
    summarize,
    supports,
)


def _exact_cdf(k: int, n: int, share: Fraction) -> Fraction:
    return sum(
        (math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1)),
        start=Fraction(0),
    )


@pytest.mark.parametrize(("percent", "least"), [(50, 20), (90, 100), (99, 1000)], ids=["p50", "p90", "p99"])
def test_a_percentile_needs_ten_samples_beyond_it(percent: int, least: int) -> None:
    assert supports(least, percent)
    assert not supports(least - 1, percent)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200), st.integers(1, 99))
@settings(max_examples=60, deadline=None)
def test_percentile_is_the_smallest_sample_that_enough_samples_do_not_exceed(samples: list[int], percent: int) -> None:
    got = percentile(np.array(samples), percent)
    assert got in samples
    assert sum(s <= got for s in samples) * 100 >= percent * len(samples)
    below = [s for s in samples if s < got]
    assert len(below) * 100 < percent * len(samples)


@pytest.mark.parametrize("count", [20, 61, 100, 333])
@pytest.mark.parametrize("percent", [50, 90])
def test_interval_holds_the_promised_coverage_exactly(count: int, percent: int) -> None:
    interval = percentile_interval(np.arange(1, count + 1), percent)
    share = Fraction(percent, 100)
    if interval is None:
        # Not even the extremes would do: the largest is below q with probability share ** count.
        assert share**count > Fraction(25, 1000)
        return
    low, high = int(interval[0]), int(interval[1])
    # With samples 1..n the values are the ranks; each tail must hold at most 2.5 %, one rank less must not.
    assert _exact_cdf(low - 1, count, share) <= Fraction(25, 1000)
    assert _exact_cdf(low, count, share) > Fraction(25, 1000)
    assert 1 - _exact_cdf(high - 1, count, share) <= Fraction(25, 1000)
    assert 1 - _exact_cdf(high - 2, count, share) > Fraction(25, 1000)


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (95, 130), (99, 662)], ids=["p90", "p95", "p99"])
def test_early_stopping_starts_at_the_counts_mlperf_publishes(percent: int, least: int) -> None:
    assert early_stopping_rank(least, percent) == 1
    assert early_stopping_rank(least - 1, percent) == 0


@given(st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_early_stopping_rank_is_the_largest_that_passes_in_exact_arithmetic(count: int) -> None:
    rank = early_stopping_rank(count, 90)
    limit, share = Fraction(1, 100), Fraction(1, 10)
    if rank:
        assert _exact_cdf(rank, count, share) <= limit
    if count > rank + 1:
        assert _exact_cdf(rank + 1, count, share) > limit


def test_early_stopping_estimate_drops_all_but_the_largest_that_must_stay() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1, 65))
    assert early_stopping_estimate(samples, 90) == 64
    assert early_stopping_estimate(samples[:63], 90) is None
    many = np.arange(1, 1001)
    assert early_stopping_estimate(many, 90) == 1001 - early_stopping_rank(1000, 90)


def test_early_stopping_estimate_is_rarely_below_the_true_percentile() -> None:
    generator = np.random.default_rng(5)
    draws = generator.exponential(size=(2000, 90))
    truth = math.log(10)
    below = np.mean([early_stopping_estimate(row, 90) < truth for row in draws])
    # The test promises 1 %; the t-th largest gives P(X < t), a little less. 2,000 draws: 5 sigma above 1 %.
    assert below <= 0.021


def test_summary_gives_back_a_known_distribution() -> None:
    generator = np.random.default_rng(1)
    samples = (generator.lognormal(mean=0.0, sigma=0.25, size=20_000) * NS_PER_MS).astype(np.int64)
    got = summarize(samples)
    assert got.samples == 20_000
    # Sampling error of a quantile: sqrt(p(1-p)/n)/pdf; under 1 % here for p50 and p90, 2 % for p99.
    assert got.p50 == pytest.approx(1.0, rel=0.01)
    assert got.p90 == pytest.approx(math.exp(0.25 * 1.2816), rel=0.01)
    assert got.p99 == pytest.approx(math.exp(0.25 * 2.3263), rel=0.02)
    assert got.cv == pytest.approx(math.sqrt(math.exp(0.25**2) - 1), rel=0.02)
    assert got.mean == pytest.approx(math.exp(0.25**2 / 2), rel=0.01)
    assert got.ci95[0] <= got.p50 <= got.ci95[1]
    assert got.p90_ci95 is not None
    assert got.p90_ci95[0] <= got.p90 <= got.p90_ci95[1]
    assert got.p90_early_stopping is None


@pytest.mark.parametrize(
    ("count", "p90", "p99", "estimate"),
    [
        (40, False, False, False),
        (80, False, False, True),
        (100, True, False, False),
        (1000, True, True, False),
    ],
)
def test_summary_says_only_what_the_count_supports(count: int, p90: bool, p99: bool, estimate: bool) -> None:
    got = summarize(np.arange(1, count + 1) * 1000)
    assert (got.p90 is not None) == p90
    assert (got.p99 is not None) == p99
    assert (got.p90_early_stopping is not None) == estimate


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="at least one sample"):
        summarize([])


def test_rank_sum_matches_hand_computed_scores() -> None:
    # U = 0 for separated groups of 3 and 4: mean 6, variance 3*4*8/12 = 8.
    assert rank_sum_z(np.array([1, 2, 3]), np.array([4, 5, 6, 7])) == pytest.approx(-6 / math.sqrt(8))
    # Ties {1: 2, 2: 3}: ranks 1.5, 1.5, 4, 4, 4; U = 1.5 + 4 - 3 = 2.5, mean 3.
    variance = 2 * 3 / 12 * (6 - (2**3 - 2 + 3**3 - 3) / (5 * 4))
    assert rank_sum_z(np.array([1, 2]), np.array([1, 2, 2])) == pytest.approx(-0.5 / math.sqrt(variance))
    assert rank_sum_z(np.array([7, 7]), np.array([7, 7])) == 0.0


def test_drift_needs_size_and_significance() -> None:
    generator = np.random.default_rng(3)
    steady = generator.normal(100, 5, size=400)
    assert drift(steady) is None
    slow_start = steady.copy()
    slow_start[:40] *= 1.2
    assert drift(slow_start) == pytest.approx(0.2, abs=0.04)
    tiny = steady.copy()
    tiny[:40] *= 1.03
    assert drift(tiny) is None
    assert drift(slow_start[:49]) is None


def test_judge_names_what_is_wrong() -> None:
    generator = np.random.default_rng(4)
    steady = generator.normal(1e6, 2e4, size=300).astype(np.int64)
    assert judge(steady).stable
    wide = generator.choice([1_000_000, 2_000_000], size=60).astype(np.int64)
    assert "half-width" in judge(wide).reason
    assert "only 5 samples" in judge(steady[:5]).reason
    warming = np.concatenate([steady[:30] * 2, steady])
    assert judge(warming).reason == "the first tenth is 99% slower"
    assert not judge(warming).stable


def test_paired_ratio_cancels_a_machine_that_wanders() -> None:
    generator = np.random.default_rng(6)
    speed = generator.uniform(1, 3, size=16)
    reference = [generator.normal(2e6, 2e4, 40) * s for s in speed]
    candidate = [generator.normal(1e6, 1e4, 40) * s for s in speed]
    got = paired_ratio(reference, candidate, label="fp32")
    # Blocks of 40 samples with 1 % noise: a block's median is within 0.5 %, their median far better.
    assert got.value == pytest.approx(2.0, rel=0.01)
    assert got.ci95[0] <= 2.0 <= got.ci95[1]
    assert got.blocks == 16
    assert got.reference == "fp32"


def test_interval_of_twins_covers_one() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for seed in range(100):
        speed = generator.lognormal(0, 0.15, size=12)
        one, two = ([generator.lognormal(13.8, 0.05, 20) * s for s in speed] for _ in range(2))
        low, high = paired_ratio(one, two, label="twin", seed=seed).ci95
        covered += low <= 1 <= high
    # The bootstrap of a median of 12 is a little liberal (about 92 %); 85 is three sigma below that.
    assert covered >= 85


@pytest.mark.parametrize(("reference", "candidate"), [(0, 0), (2, 3)])
def test_ratio_of_unlike_blocks_is_refused(reference: int, candidate: int) -> None:
    block = np.array([1, 2, 3])
    with pytest.raises(UserError, match="same number of blocks"):
        paired_ratio([block] * reference, [block] * candidate, label="x")
