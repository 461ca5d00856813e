"""A contest spread over Ray workers: each runs a share of the images, and the counts add up to the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.ray_settings import ray_settings, ray_variables
from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.workflow.contest import Contest, Score, run_part

HOW_TO_INSTALL = "pip install ray"
PARTS_PER_WORKER = 4
"""More parts than workers, so that a slow worker does not keep the others waiting for its share."""


def shares(count: int, parts: int) -> list[range]:
    """`count` images in at most `parts` consecutive shares that differ by one image at most."""
    parts = max(1, min(parts, count))
    edges = [count * part // parts for part in range(parts + 1)]
    return [range(low, high) for low, high in itertools.pairwise(edges)]


def added_up(parts: Iterable[Sequence[Score]]) -> list[Score]:
    """The scores of all parts, in the order given, as one run over all images would have them.

    Counts and class decisions are the same to the last image; sums of floating values may differ in their last
    digits, because they were added in another order.
    """
    totals: list[Score] = []
    for part in parts:
        if not totals:
            totals = list(part)
            continue
        for total, more in zip(totals, part, strict=True):
            total.extend(more)
    return totals


def run_on_ray(contest: Contest, *, progress: Progress = silent) -> list[Score]:
    """`contest.run_part` over all images, by the workers of a Ray cluster (this machine's where there is none).

    Every worker needs the models and the images under the same paths. ``RAY_ADDRESS`` names a cluster.

    Raises:
        UserError: There are no images.
        UnsupportedError: Ray is not installed.
        StageError: A worker failed.
    """
    os.environ.update(ray_variables())
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise UnsupportedError("the engine 'ray' is not installed", hint=HOW_TO_INSTALL) from error
    count = len(contest.images())
    if count == 0:
        raise UserError(f"'{contest.place}' holds no images", hint="name a folder of images")
    mine = not ray.is_initialized()
    if mine:
        ray.init(logging_level="ERROR", **ray_settings())
    try:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // contest.threads)
        task = ray.remote(num_cpus=contest.threads)(run_part)
        asked = [task.remote(contest, share) for share in shares(count, PARTS_PER_WORKER * workers)]
        waiting = list(asked)
        while waiting:
            progress(len(asked) - len(waiting), len(asked), "verify on ray")
            _, waiting = ray.wait(waiting)
        progress(len(asked), len(asked), "verify on ray")
        return added_up(ray.get(asked))
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise StageError("verify", "a worker of ray", str(cause).strip().splitlines()[-1]) from error
    finally:
        if mine:
            ray.shutdown()
