"""What a set of latency samples supports saying, and nothing more.

Percentiles are order statistics (the smallest sample that at least a share p of all samples does not exceed);
their intervals come from the binomial distribution and assume nothing about the latencies' own distribution.
Ratios are taken between blocks that ran next to each other in time, so that a machine whose speed wanders
moves both sides alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mscsa_deploy.core.report import Latency, Ratio
from mscsa_deploy.errors import UserError

Samples = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NS_PER_MS = 1e6
CONFIDENCE = 0.95
HALF_WIDTH_LIMIT = 0.05
DRIFT_LIMIT = 0.05
DRIFT_SIGNIFICANCE_Z = 2.576  # two-sided 1 %
BOOTSTRAP_DRAWS = 4000
EARLY_STOPPING_CONFIDENCE = 0.99


def supports(count: int, percent: int) -> bool:
    """Whether `count` samples support the `percent` percentile: at least ten samples lie beyond it."""
    return count * (100 - percent) >= 1000


def percentile(samples: Samples | Floats, percent: float) -> float:
    """The `percent` percentile (0..100) as an order statistic, in the unit of `samples`."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def _binomial_cdf(count: int, share: float) -> Floats:
    """(count + 1,) P(X <= k) for k = 0..count, X ~ Binomial(count, share), through logarithms."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1, dtype=np.float64)))])
    k = np.arange(count + 1)
    log_pmf = log_factorial[count] - log_factorial[k] - log_factorial[count - k]
    log_pmf = log_pmf + k * math.log(share) + (count - k) * math.log1p(-share)
    cdf: Floats = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    return cdf


def percentile_interval(samples: Samples | Floats, percent: float) -> tuple[float, float] | None:
    """The distribution-free 95 % interval of a percentile between two order statistics; None if samples are few.

    Args:
        samples: Latencies in any unit and order.
        percent: Which percentile, 0..100.

    Source: David and Nagaraja, Order Statistics, section 7.1.
    """
    count = len(samples)
    tail = (1 - CONFIDENCE) / 2
    cdf = _binomial_cdf(count, percent / 100)
    # x_(r) <= q fails with probability P(X < r) = cdf[r - 1], x_(s) > q with P(X >= s) = 1 - cdf[s - 1].
    low = int(np.searchsorted(cdf, tail, side="right"))
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1
    if low < 1 or high > count:
        return None
    ordered = np.sort(samples)
    return float(ordered[low - 1]), float(ordered[high - 1])


def early_stopping_rank(count: int, percent: float) -> int:
    """The largest t for which `count` samples with t above the bound pass the binomial test; 0 if none does.

    The test (tolerance d = 0): were the true share below the bound only `percent`, seeing t or fewer above it
    would have a probability of at most 1 - `EARLY_STOPPING_CONFIDENCE`.

    Source: MLPerf Inference rules, early stopping for the single-stream scenario.
    """
    if count == 0:
        return 0
    cdf = _binomial_cdf(count, 1 - percent / 100)
    return max(int(np.searchsorted(cdf, 1 - EARLY_STOPPING_CONFIDENCE, side="right")) - 1, 0)


def early_stopping_estimate(samples: Samples | Floats, percent: float) -> float | None:
    """MLPerf's estimate of a percentile: the t-th largest sample; None when t is 0 (p90: n < 64)."""
    rank = early_stopping_rank(len(samples), percent)
    return float(np.sort(samples)[len(samples) - rank]) if rank else None


def summarize(samples_ns: Samples | Sequence[int]) -> Latency:
    """The latency record of one row.

    Args:
        samples_ns: (n,) nanoseconds of one call each, in the order they were taken, n >= 1.

    Returns:
        Milliseconds; p90 from 100 samples on, p99 from 1,000 on, MLPerf's estimate of p90 from 64 on.

    Raises:
        UserError: There is no sample.
    """
    samples = np.asarray(samples_ns, dtype=np.int64)
    if samples.size == 0:
        raise UserError("a latency needs at least one sample, got none")
    ms = samples / NS_PER_MS
    mean = float(ms.mean())
    p90 = supports(ms.size, 90)
    return Latency(
        min=float(ms.min()),
        mean=mean,
        p50=percentile(ms, 50),
        samples=int(ms.size),
        cv=float(ms.std(ddof=1) / mean) if ms.size > 1 and mean > 0 else 0.0,
        ci95=percentile_interval(ms, 50) or (float(ms.min()), float(ms.max())),
        p90=percentile(ms, 90) if p90 else None,
        p90_ci95=percentile_interval(ms, 90) if p90 else None,
        p99=percentile(ms, 99) if supports(ms.size, 99) else None,
        p90_early_stopping=None if p90 else early_stopping_estimate(ms, 90),
    )


def rank_sum_z(first: Floats | Samples, second: Floats | Samples) -> float:
    """The normal score of the Mann-Whitney rank-sum test (ties averaged); positive when `first` is larger."""
    joined = np.concatenate([first, second])
    _, index, counts = np.unique(joined, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    n, m = len(first), len(second)
    statistic = float(ranks[:n].sum()) - n * (n + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return (statistic - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def drift(samples: Samples | Floats) -> float | None:
    """How far the first tenth's median lies from that of the rest, as a share; None if it does not drift.

    A drift must be both large (over 5 %) and no accident (rank-sum test at 1 %). Under 50 samples the first
    tenth is too small to judge and nothing is claimed.
    """
    tenth = len(samples) // 10
    if tenth < 5:
        return None
    first, rest = samples[:tenth], samples[tenth:]
    change = float(np.median(first) / np.median(rest) - 1)
    if abs(change) <= DRIFT_LIMIT or abs(rank_sum_z(first, rest)) < DRIFT_SIGNIFICANCE_Z:
        return None
    return change


@dataclass(frozen=True, slots=True)
class Stability:
    """Whether a row's median can be quoted.

    Args:
        stable: Neither too wide nor drifting.
        reason: In words when it is not; empty otherwise.
    """

    stable: bool
    reason: str = ""


def judge(samples_ns: Samples | Sequence[int]) -> Stability:
    """Unstable if p50's 95 % half-width is over 5 % of it, the first tenth drifts, or samples are too few."""
    samples = np.asarray(samples_ns, dtype=np.int64)
    reasons = []
    if not supports(samples.size, 50):
        reasons.append(f"only {samples.size} samples")
    elif interval := percentile_interval(samples, 50):
        half_width = (interval[1] - interval[0]) / 2 / percentile(samples, 50)
        if half_width > HALF_WIDTH_LIMIT:
            reasons.append(f"95 % half-width of p50 is {half_width:.1%} (limit {HALF_WIDTH_LIMIT:.0%})")
    change = drift(samples)
    if change is not None:
        reasons.append(f"the first tenth is {abs(change):.0%} {'slower' if change > 0 else 'faster'}")
    return Stability(not reasons, "; ".join(reasons))


def paired_ratio(reference: Sequence[Samples], candidate: Sequence[Samples], *, label: str, seed: int = 0) -> Ratio:
    """How many times faster `candidate` is than `reference`, from blocks that ran side by side.

    The value is the median over blocks of (median of the reference block / median of the candidate block);
    the interval resamples blocks, so that slow stretches of the machine count once and not once per sample.

    Args:
        reference: One array of nanoseconds per block.
        candidate: The same number of blocks, block i taken right before or after block i of `reference`.
        label: What the reference is, in words.
        seed: Of the bootstrap.

    Raises:
        UserError: The numbers of blocks differ, or there are none.
    """
    if len(reference) != len(candidate) or not reference:
        raise UserError(
            f"a paired ratio needs the same number of blocks on both sides (at least one), "
            f"got {len(reference)} and {len(candidate)}"
        )
    ratios = np.array([np.median(r) / np.median(c) for r, c in zip(reference, candidate, strict=True)])
    low, high = bootstrap_interval(ratios, seed=seed)
    return Ratio(value=float(np.median(ratios)), ci95=(low, high), blocks=len(ratios), reference=label)


def bootstrap_interval(values: Floats, *, seed: int = 0) -> tuple[float, float]:
    """The percentile-bootstrap 95 % interval of the median of `values`."""
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(values), size=(BOOTSTRAP_DRAWS, len(values)))
    medians = np.median(values[draws], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)
