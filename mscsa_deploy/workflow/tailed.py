"""Class-map files of a deployment: where a tail inside the graph beats the light runner's, it is shipped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.tensors import Array, TensorSpec
from mscsa_deploy.errors import DeployError, StageError
from mscsa_deploy.workflow.cache import cached, located, relative
from mscsa_deploy.workflow.tails import OUTSIDE, TailCheck, TailDecision, check_tail, decide_tail

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.workflow.evaluate import ImageSet
    from mscsa_deploy.workflow.variants import Variant

logger = logging.getLogger(__name__)

RUNTIMES_WITH_TAILS = ("onnxruntime", "openvino")
# One form of each kind, since trying all takes minutes: on pictures the first two beat every static form by far, and
# which static one is fastest depends on the runtime (benchmarks/results/tails__*.json).
FORMS = ("cells", "pruned", "strips_first")
CHECK_IMAGES = 4
# In bf16 a runtime rounds logits where they leave the graph and not where they go on, so that maps differ by more
# than near-ties of float32; so many pixels may.
MOST_ROUNDED = 1e-3


@dataclass(frozen=True, slots=True)
class Tailed:
    """The variants with their class-map files, and what was found.

    Args:
        variants: As they came, some with `answering` set.
        decisions: By runtime.
    """

    variants: tuple[Variant, ...]
    decisions: dict[str, TailDecision]

    def __str__(self) -> str:
        return "; ".join(
            f"{runtime}: {found.form} ("
            + ", ".join(f"{form} {ms:.1f} ms" for form, ms in sorted(found.scores_ms.items(), key=lambda each: each[1]))
            + ")"
            for runtime, found in self.decisions.items()
        )


def with_tails(
    variants: Sequence[Variant],
    images: ImageSet,
    profile: DeviceProfile,
    *,
    only: bool = False,
    smoke: bool = False,
    progress: Progress = silent,
) -> Tailed:
    """Give each shipped variant a class-map file with the tail that is fastest on its runtime.

    The form is measured behind the runtime's optimized FP32 file, beside the light runner's own upsampling and
    argmax; where that wins, nothing is added. A class map that differs from the plain one in more than near-ties
    is not shipped: the next fastest form takes its place, and where none does, the variant says so. It has failed
    where only class maps are to be shipped.

    Args:
        variants: Everything that was built; only segmentation with batch 1 is looked at.
        images: Pictures to measure and check on.
        profile: The class of device.
        only: Ship the class-map files instead of the files of logits, whichever is faster.
        smoke: Only show that it runs.
        progress: Told about the work.

    Raises:
        StageError: Nothing could be measured.
    """
    made = list(variants)
    decisions: dict[str, TailDecision] = {}
    tensors: list[Array] = []
    for runtime in RUNTIMES_WITH_TAILS:
        ours = [place for place, each in enumerate(made) if each.runtime == runtime and each.status == "ok"]
        best = next((made[place] for place in ours if made[place].role == "optimised_fp32"), None)
        if best is None:
            continue
        decision = decide_tail(best, FORMS, images, profile, outside=not only, smoke=smoke, progress=progress)
        decisions[runtime] = decision
        if decision.form == OUTSIDE:
            continue
        tensors = tensors or [images.input(index) for index in range(min(CHECK_IMAGES, len(images)))]
        for place in ours:
            if made[place].place:
                made[place] = _tailed(made[place], decision, tensors, profile.name, only=only, progress=progress)
    return Tailed(tuple(made), decisions)


def _tailed(
    variant: Variant, decision: TailDecision, tensors: Sequence[Array], profile: str, *, only: bool, progress: Progress
) -> Variant:
    """`variant` with its class-map file in the fastest form that is exact enough behind it; noted, if none is."""
    size = (int(tensors[0].shape[2]), int(tensors[0].shape[3]))
    progress(0, 1, f"class map of {variant.label}")
    refused: list[str] = []
    for form in decision.inside:
        try:
            answering = tail_cached(variant.artifact, form, size)
            check = check_tail(variant.artifact.path, answering.path, variant.runtime, variant.settings, tensors)
            _require(variant, check, form)
        except DeployError as error:
            logger.warning("%s: tail '%s' is not used: %s", variant.label, form, error)
            refused.append(f"tail '{form}' is not used: {error}")
        else:
            break
    else:
        if only:
            return replace(variant, status="failed", reason="; ".join(("no class map inside the graph", *refused)))
        return replace(variant, notes=(*variant.notes, "no class map inside the graph", *refused))
    counts = {"pixels": check.pixels, "different": check.different, "ties": check.ties}
    tail = {"form": form, "scores_ms": decision.scores_ms, **counts}
    notes = (*variant.notes, *refused)
    if only:
        notes = (*notes, "'core' times the network before its tail, which is not shipped by itself")
    file = f"{PurePosixPath(variant.place).stem}.classmap{answering.path.suffix}"
    return replace(
        variant,
        answering=answering,
        answer_place=f"{variant.runtime}/{profile}/{file}",
        only_answer=only,
        notes=notes,
        details={**variant.details, "tail": tail},
    )


def _require(variant: Variant, check: TailCheck, form: str) -> None:
    options = variant.settings.options
    if "bf16" in (variant.precision, options.get("float_precision")):
        if check.different > MOST_ROUNDED * check.pixels:
            raise StageError("tail", form, f"{check.different} of {check.pixels} pixels differ in bf16")
    else:
        check.require(form)


def tail_cached(logits: Artifact, form: str, size: tuple[int, int]) -> Artifact:
    """`logits` (ONNX, or OpenVINO's own format) with a tail, from the cache when the same was made before.

    Args:
        logits: A file of logits.
        form: A name of `graphs.tail.forms.TAIL_FORMS`.
        size: Height and width of the class map.
    """
    from mscsa_deploy.graphs.tail.files import tail_bytes

    def make(folder: Path) -> Artifact:
        path = folder / f"{logits.path.stem}.classmap{logits.path.suffix}"
        if logits.kind == "onnx":
            from mscsa_deploy.export.endings import with_tail

            return relative(with_tail(logits, form, path), folder)
        from mscsa_deploy.runtimes.openvino_tail import write_ir_with_tail

        write_ir_with_tail(logits.path, form, size, path)
        classes = logits.outputs[0].shape[1]
        answer = TensorSpec("classmap", "uint8" if classes <= 256 else "uint16", (1, *size))
        made_by = MadeBy("tail", {"form": form}, parent=logits.sha256, tools=logits.made_by.tools)
        made = Artifact.of(
            path, kind=logits.kind, precision=logits.precision, inputs=logits.inputs, outputs=(answer,), made_by=made_by
        )
        return relative(made, folder)

    # The tail's own bytes, so that a form that was changed makes new files.
    tail = hashlib.sha256(tail_bytes(logits.outputs[0].shape, form, size)).hexdigest()
    parts = {"logits": logits.sha256, "tail": tail, "tools": logits.made_by.tools}
    folder, made = cached("tail_file", parts, Artifact, make)
    return located(made, folder)
