"""Segmentation tails of artefacts: which form is fastest on this device, and whether it changes a pixel."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.config import Record, to_plain
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import GateError, StageError
from mscsa_deploy.workflow.cache import cached
from mscsa_deploy.workflow.measure import Measurement, measure_variants
from mscsa_deploy.workflow.variants import Variant

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.runtimes.protocol import SessionSettings
    from mscsa_deploy.workflow.evaluate import ImageSet

logger = logging.getLogger(__name__)

# Two classes whose upsampled logits are closer than this share of the range may change places; so many may.
NEAR_TIE = 1e-4
MOST_TIES = 1e-4
# The same share of a map of 64x96 would be half a pixel, and the logits of an INT8 network tie more often.
FEW_TIES = 8
# The light runner's own upsampling and argmax, outside the graph, as a form.
OUTSIDE = "outside"
# Enough to tell forms apart that differ by a few percent of the whole; deploy cannot wait for more.
TAIL_PRESET = {"min_seconds": 0.6, "min_samples": 24, "blocks": 6, "row_cap_seconds": 6.0, "remeasures": 0}


class TailCheck(Record, frozen=True, kw_only=True):
    """The class map of one tail on one runtime, pixel by pixel against upsampling and argmax as usually written.

    Args:
        runtime: Where both ran, on the same logits.
        images: How many pictures.
        pixels: In all of them.
        different: Pixels with another class.
        ties: Of those, pixels where both classes' logits differ by less than 1e-4 of the range.
    """

    runtime: str
    images: int
    pixels: int
    different: int
    ties: int

    @property
    def passed(self) -> bool:
        """Whether the maps are the same but for few pixels, all of them near-ties."""
        return self.different == self.ties <= self.most

    @property
    def most(self) -> int:
        """How many pixels may differ: 0.01 %, or 8 where that is less."""
        return max(FEW_TIES, int(MOST_TIES * self.pixels))

    def require(self, form: str) -> None:
        """Raise `GateError` unless passed; `form` is the tail's."""
        if not self.passed:
            raise GateError(
                f"tail '{form}' on {self.runtime}: {self.different} of {self.pixels} pixels have another class than "
                f"with upsampling and argmax, {self.ties} of them near-ties; expected near-ties only, at most "
                f"{self.most}",
                hint="export with --tail plain and report this",
            )


@dataclass(frozen=True, slots=True)
class TailDecision:
    """The fastest form, by measurement from picture to class map.

    Args:
        scores_ms: Median latency of each form measured; at least one.
    """

    scores_ms: dict[str, float]

    @property
    def form(self) -> str:
        """Its name, or `OUTSIDE`."""
        return min(self.scores_ms, key=lambda form: self.scores_ms[form])

    @property
    def inside(self) -> list[str]:
        """The forms inside the graph that are faster than what is done outside it, the fastest first."""
        least = self.scores_ms.get(OUTSIDE, float("inf"))
        forms = [form for form, ms in self.scores_ms.items() if form != OUTSIDE and ms < least]
        return sorted(forms, key=lambda form: self.scores_ms[form])


def check_tail(
    logits: Path, tailed: Path, runtime: str, settings: SessionSettings, tensors: Sequence[Array]
) -> TailCheck:
    """Run the plain form and the file `tailed` on the same pictures.

    Args:
        logits: The file of logits that `tailed` was made from, ONNX or OpenVINO.
        tailed: The same network with a tail.
        runtime: Where to run both.
        settings: Of both sessions.
        tensors: Inputs.

    Raises:
        StageError: The runtime failed.
    """
    from mscsa_deploy.graphs.tail.choose import check_pixels
    from mscsa_deploy.imaging.classmap import class_map
    from mscsa_deploy.runtimes import RUNTIMES

    load = RUNTIMES.load(runtime)().load
    pixels = different = ties = 0
    with load(logits, settings) as network, load(tailed, settings) as whole:
        for tensor in tensors:
            values = next(iter(network.run({network.inputs[0].name: tensor}).values()))
            answer = next(iter(whole.run({whole.inputs[0].name: tensor}).values()))
            size = (int(answer.shape[1]), int(answer.shape[2]))
            reference = np.stack([class_map(each, size) for each in values])
            found = check_pixels(values, reference, answer, tie=NEAR_TIE)
            pixels, different, ties = pixels + found.pixels, different + found.different, ties + found.ties
    return TailCheck(runtime=runtime, images=len(tensors), pixels=pixels, different=different, ties=ties)


def decide_tail(
    logits: Variant,
    forms: Sequence[str],
    images: ImageSet,
    profile: DeviceProfile,
    *,
    outside: bool = False,
    smoke: bool = False,
    progress: Progress = silent,
) -> TailDecision:
    """The fastest of `forms` behind `logits`, from the cache when the same was measured here before.

    Args:
        logits: An FP32 ONNX file of logits, batch 1, as its runtime runs it.
        forms: Names of tail forms that fit it.
        images: Pictures to measure on.
        profile: The class of device.
        outside: Also try the light runner's own upsampling and argmax.
        smoke: Only show that it runs.
        progress: Told about every block.

    Raises:
        StageError: No form could be measured.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.graphs.tail.files import tail_bytes
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.timing.plan import preset

    settings = preset("smoke") if smoke else preset("quick", **TAIL_PRESET)
    shape, size = logits.artifact.outputs[0].shape, (images.preprocess.height, images.preprocess.width)
    parts = {
        "logits": logits.artifact.sha256,
        "forms": {form: hashlib.sha256(tail_bytes(shape, form, size)).hexdigest() for form in forms},
        "outside": outside,
        "settings": {"runtime": logits.runtime, "threads": logits.settings.threads, **logits.settings.options},
        "version": RUNTIMES.load(logits.runtime)().probe().version,
        "environment": read_environment().fingerprint(),
        "preset": to_plain(settings),
        "preprocess": to_plain(images.preprocess),
    }

    threads = logits.settings.threads
    plan = Measurement(
        group=f"tails of {logits.artifact.path.stem}",
        images=images,
        boundaries=("end_to_end",),
        preset=settings,
        profile=profile.name,
        threads=threads,
        affinity=profile.cores(threads),
        declared=logits.artifact.inputs[0],
    )

    def make(_: Path) -> TailDecision:
        decision = TailDecision(_scores(logits, forms, plan, outside=outside, progress=progress))
        logger.info("%s: tail '%s' of %s", logits.label, decision.form, decision.scores_ms)
        return decision

    return cached("tail", parts, TailDecision, make)[1]


def _scores(
    logits: Variant, forms: Sequence[str], plan: Measurement, *, outside: bool, progress: Progress
) -> dict[str, float]:
    """Median milliseconds of each form that ran, all files taking turns."""
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.core.files import sha256_file
    from mscsa_deploy.graphs.tail.choose import choose_tail

    beside: list[float] = []
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as scratch:

        def score(files: Sequence[Path]) -> list[float]:
            tailed = [replace(logits.artifact, path=path, sha256=sha256_file(path)) for path in files]
            artifacts = [*([logits.artifact] if outside else []), *tailed]
            rows = measure_variants(
                [replace(logits, artifact=artifact, role="", place="") for artifact in artifacts],
                plan,
                samples_dir=Path(scratch) / "samples",
                fingerprint=read_environment().fingerprint(),
                resume=False,
                progress=lambda done, total, _: progress(done, total, f"tails on {logits.runtime}"),
            )
            found = [row.latency_ms.p50 if row.latency_ms else float("inf") for row in rows.values()]
            beside.extend(found[: len(found) - len(files)])
            return found[len(found) - len(files) :]

        choice = choose_tail(logits.artifact.path, forms, score=score, folder=Path(scratch))
    found = {**dict(zip((OUTSIDE,), beside, strict=False)), **choice.scores_ms}
    scores = {name: round(ms, 3) for name, ms in found.items() if ms < float("inf")}
    if not scores:
        raise StageError("tail", logits.label, "no form could be measured")
    return scores
