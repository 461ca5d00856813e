"""Rows of a benchmark from variants: inputs on disk, one process per row, and the records that come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.files import cache_root, content_key
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Boundary, Mode, Row
from mscsa_deploy.core.tensors import TensorSpec

if TYPE_CHECKING:
    from mscsa_deploy.timing.plan import CoreInputs, EncodedInputs, Preset, RowSpec
    from mscsa_deploy.workflow.evaluate import ImageSet
    from mscsa_deploy.workflow.variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What all rows of one benchmark have in common.

    Args:
        group: Name of the model; rows of a group are interleaved and compared.
        images: Real images that the inputs are made from.
        boundaries: ``core``, ``end_to_end`` or both.
        preset: For how long.
        profile: Name of the device profile.
        threads: Compute threads of each row.
        macs: Of one forward pass; 0 when not known.
        affinity: Cores to pin to; empty leaves it to the system.
        explain: Boundaries at which every runtime is asked for its profile by operator.
        declared: The models' picture input.
        rate: Pictures a second for paced rows; 0 for back-to-back ones.
        streams: Parallel streams; more than one makes throughput rows.
    """

    group: str
    images: ImageSet
    boundaries: tuple[Boundary, ...]
    preset: Preset
    profile: str
    threads: int = 1
    macs: int = 0
    affinity: tuple[int, ...] = ()
    explain: tuple[Boundary, ...] = ()
    declared: TensorSpec
    rate: float = 0.0
    streams: int = 1

    @property
    def mode(self) -> Mode:
        """How calls follow one another."""
        return "paced" if self.rate else "throughput" if self.streams > 1 else "back_to_back"


def measure_variants(
    variants: Sequence[Variant],
    plan: Measurement,
    *,
    samples_dir: Path,
    fingerprint: str,
    resume: bool = True,
    progress: Progress = silent,
) -> dict[tuple[int, Boundary], Row]:
    """Latency of every variant that can run here, by its position in `variants` and the boundary.

    Args:
        variants: What to run.
        plan: How.
        samples_dir: Where the raw samples are kept.
        fingerprint: Of the environment.
        resume: Go on with an interrupted run of the same plan.
        progress: Told about every block.
    """
    from mscsa_deploy.timing.orchestrator import measure

    keys, specs = _specs(variants, plan)
    if not specs:
        return {}
    rows = measure(
        specs, plan.preset, samples_dir=samples_dir, fingerprint=fingerprint, resume=resume, progress=progress
    )
    return dict(zip(keys, rows, strict=True))


def measure_variants_on(
    place: str, variants: Sequence[Variant], plan: Measurement, *, samples_dir: Path, progress: Progress = silent
) -> tuple[dict[tuple[int, Boundary], Row], dict[str, Any]]:
    """As `measure_variants` on the machine ``ssh://[user@]host[:port]``, with that machine's environment.

    Raises:
        UserError: `place` names no machine.
        UnsupportedError: The far machine has no suitable Python.
        StageError: The connection or the far job failed; nothing is left running there.
    """
    from mscsa_deploy.timing.remote import measure_on

    keys, specs = _specs(variants, plan)
    if not specs:
        return {}, {}
    outcome = measure_on(place, specs, plan.preset, samples_dir=samples_dir, progress=progress)
    rows = dict(zip(keys, outcome.rows, strict=True))
    return rows, {**outcome.environment, "fingerprint": outcome.fingerprint}


def _specs(variants: Sequence[Variant], plan: Measurement) -> tuple[list[tuple[int, Boundary]], list[RowSpec]]:
    """The rows of the variants that can run, each with its position and boundary."""
    core, encoded = write_inputs(plan.images, plan.declared)
    keys: list[tuple[int, Boundary]] = []
    specs: list[RowSpec] = []
    for position, variant in enumerate(variants):
        for boundary in plan.boundaries:
            if variant.status == "ok":
                keys.append((position, boundary))
                specs.append(_spec(variant.at(boundary), plan, core if boundary == "core" else encoded))
    return keys, specs


def _spec(variant: Variant, plan: Measurement, inputs: CoreInputs | EncodedInputs) -> RowSpec:
    from mscsa_deploy.timing.plan import CoreInputs, RowSpec

    core = inputs if isinstance(inputs, CoreInputs) else None
    spec = plan.images.preprocess
    return RowSpec(
        group=plan.group,
        runtime=variant.runtime,
        precision=variant.precision,
        path=str(variant.artifact.path),
        core=core,
        encoded=None if isinstance(inputs, CoreInputs) else inputs,
        role=variant.role,
        mode=plan.mode,
        rate=plan.rate,
        streams=plan.streams,
        device=variant.settings.device,
        threads=variant.settings.threads,
        affinity=plan.affinity,
        options=dict(variant.settings.options),
        input_size=(spec.height, spec.width),
        artifact=variant.place or variant.artifact.path.name,
        sha256=variant.artifact.sha256,
        size_bytes=variant.size_bytes,
        recipe=variant.recipe,
        profile=plan.profile,
        macs=plan.macs,
        explain=("core" if core is not None else "end_to_end") in plan.explain,
    )


def unmeasured(variant: Variant, profile: str, size: tuple[int, int], artifact: str) -> Row:
    """The row of a variant that was not run: its status and reason instead of a latency.

    Args:
        variant: What it is.
        profile: Name of the device profile.
        size: Input (height, width).
        artifact: How the report calls its file.
    """
    return Row(
        runtime=variant.runtime,
        precision=variant.precision,
        status=variant.status,
        reason=variant.reason,
        profile=profile,
        device=variant.settings.device,
        threads=variant.settings.threads,
        input_size=size,
        artifact=artifact,
        sha256=variant.shipped.sha256,
        recipe=variant.recipe,
        size_bytes=variant.size_bytes,
    )


def write_inputs(images: ImageSet, declared: TensorSpec) -> tuple[CoreInputs, EncodedInputs]:
    """Write the inputs that rows rotate over: preprocessed tensors, and encoded pictures.

    They lie in the cache, where a resumed run finds the same ones.
    """
    from mscsa_deploy.timing.inputs import write_core_inputs, write_pictures
    from mscsa_deploy.timing.plan import MIN_INPUTS

    count = min(len(images), MIN_INPUTS)
    key = {
        "images": images.hashes[:count],
        "preprocess": to_plain(images.preprocess),
        "input": [declared.name, declared.dtype],
    }
    work = cache_root() / "inputs" / content_key(key)
    pictures = [images.dataset.load(index)[0] for index in range(count)]
    core = write_core_inputs(work / "inputs.npz", declared, pictures, images.preprocess)
    return core, write_pictures(work / "pictures", pictures, images.preprocess, images.task)
