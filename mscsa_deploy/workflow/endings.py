"""The tail of an exported class map: the form that was asked for or is fastest, checked before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.workflow.against_pytorch import CHECK_IMAGES, available
from mscsa_deploy.workflow.prepare import Prepared
from mscsa_deploy.workflow.tails import TailCheck, check_tail, decide_tail

if TYPE_CHECKING:
    from mscsa_deploy.core.artifact import Artifact
    from mscsa_deploy.imaging.dataset import Dataset


class Tail(Record, frozen=True, kw_only=True):
    """The upsampling and argmax inside the graph.

    Args:
        form: Its name in `graphs.tail`.
        why: Who chose it.
        scores_ms: From picture to class map with each form, where it was measured.
        checks: Pixel by pixel against upsampling and argmax as usually written, on every runtime tried.
    """

    form: str
    why: str
    scores_ms: dict[str, float] = msgspec.field(default_factory=dict)
    checks: tuple[TailCheck, ...] = ()


def add_tail(
    prepared: Prepared,
    logits: Artifact,
    dataset: Dataset,
    out: Path,
    *,
    runtime: str | None = None,
    form: str | None = None,
    progress: Progress = silent,
) -> tuple[Tail, Artifact]:
    """Write `logits` with a tail to `out`, and hold its class map against the plain one, pixel by pixel.

    Args:
        prepared: The model.
        logits: Its ONNX file.
        dataset: Pictures to measure and check on.
        out: Replaced if it exists.
        runtime: What is to run the file, if known.
        form: Name of a form, or ``"auto"`` to measure on `runtime`; None for the usual one.
        progress: Told about the work.

    Raises:
        UserError: The form is unknown or does not fit the model.
        UnsupportedError: `runtime` cannot be measured here.
        GateError: The class map differs in more than near-ties.
    """
    from mscsa_deploy.export.endings import with_tail
    from mscsa_deploy.graphs.check import read_model
    from mscsa_deploy.graphs.opset import opset_of
    from mscsa_deploy.graphs.tail.forms import default_form
    from mscsa_deploy.imaging.preprocess import preprocess
    from mscsa_deploy.runtimes.protocol import SessionSettings

    batch, opset = logits.inputs[0].shape[0], opset_of(read_model(logits.path))
    scores: dict[str, float] = {}
    why = "named"
    if form == "auto":
        form, scores = _measured_form(runtime or "", prepared, logits, dataset, opset=opset, progress=progress)
        why = f"measured on {runtime}"
    elif form is None:
        form = default_form(runtime, dynamic_batch=batch == -1, opset=opset)
        why = f"usual for {runtime}" if runtime else "usual where the runtime is not known"
    artifact = with_tail(logits, form, out)
    tensors = [
        np.repeat(preprocess(dataset.load(index)[0], prepared.preprocess), max(batch, 1), axis=0)
        for index in range(min(CHECK_IMAGES, len(dataset)))
    ]
    checks = []
    for name in available():
        progress(0, 1, f"tail: pixel by pixel on {name}")
        found = check_tail(logits.path, artifact.path, name, SessionSettings(threads=2), tensors)
        found.require(form)
        checks.append(found)
    return Tail(form=form, why=why, scores_ms=scores, checks=tuple(checks)), artifact


def _measured_form(
    runtime: str, prepared: Prepared, logits: Artifact, dataset: Dataset, *, opset: int, progress: Progress
) -> tuple[str, dict[str, float]]:
    """The form that is fastest on `runtime` here, and what each took."""
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.graphs.tail.forms import forms_for
    from mscsa_deploy.runtimes.profile import pick_profile
    from mscsa_deploy.workflow.evaluate import ImageSet
    from mscsa_deploy.workflow.variants import Variant

    batch = logits.inputs[0].shape[0]
    if runtime == "tensorrt" or not available((runtime,)):
        raise UnsupportedError(
            f"{runtime} cannot be measured here", hint="take --tail FORM, or leave --tail out for the usual one"
        )
    if batch not in (-1, 1):
        raise UserError(f"--tail auto measures single pictures, the batch is {batch}", hint="name a form")
    profile = pick_profile(read_environment())[0]
    images = ImageSet(dataset, prepared.preprocess, prepared.task, prepared.classes)
    forms = forms_for(static_shapes=False, dynamic_batch=batch == -1, opset=opset)
    variant = Variant(runtime=runtime, precision="fp32", artifact=logits, settings=profile.settings(runtime, "fp32"))
    decision = decide_tail(variant, forms, images, profile, progress=progress)
    return decision.form, decision.scores_ms
