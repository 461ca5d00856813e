"""Which artefact of a bundle this machine should run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mscsa_deploy.bundle.store import Bundle, contents
from mscsa_deploy.calibration.budget import Budget
from mscsa_deploy.errors import UnsupportedError, unknown_name
from mscsa_deploy.runtimes import OFFERED, RUNTIMES
from mscsa_deploy.runtimes.protocol import PRECISIONS

if TYPE_CHECKING:
    from mscsa_deploy.bundle.manifest import ArtifactEntry, Choice, Manifest, Measurement


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a bundle: an artefact on a runtime in a precision.

    Args:
        entry: The artefact.
        runtime: Name of the runtime.
        precision: What the runtime is asked to compute in.
        measured: What it did where the bundle was made; None when it was not measured.
    """

    entry: ArtifactEntry
    runtime: str
    precision: str
    measured: Measurement | None

    def __str__(self) -> str:
        rest = f" with the rest in {self.rest}" if self.rest != "fp32" else ""
        return f"{self.entry.path} on {self.runtime} in {self.precision}{rest}"

    @property
    def threads(self) -> int:
        """Compute threads it was measured with; 1 if it was not."""
        return self.measured.threads if self.measured else 1

    @property
    def device(self) -> str:
        """What it was measured on; the processor if it was not."""
        return self.measured.device if self.measured else "cpu"

    @property
    def options(self) -> dict[str, Any]:
        """The runtime's own settings it was measured with; none if it was not."""
        return self.measured.options if self.measured else {}

    @property
    def lossy(self) -> bool:
        """Whether it was found to lose more of the task's metric than INT8 usually may."""
        metric = self.measured.metric if self.measured else None
        if self.precision == "fp32" or metric is None or metric.drop is None or metric.reference is None:
            return False
        return not Budget.of(metric.name).allows(metric.value, metric.reference)

    @property
    def rest(self) -> str:
        """What the float remainder of an int8 file runs in."""
        return str(self.options.get("float_precision", "fp32"))


def select(
    bundle: Bundle, *, runtime: str | None = None, precision: str | None = None, values: bool = False
) -> Candidate:
    """The artefact of `bundle` to run here, with its runtime and precision.

    What the bundle recommends is taken where this machine can run it, then whatever was fastest when the
    bundle was made, then FP32; what lost more accuracy than is usually allowed comes after that. Artefacts that
    require instructions which this processor lacks come last.
    Of a file that was measured with several settings of its runtime, those count that are fastest and can run here.

    On another architecture than the bundle was made on, nobody knows what is fast, and its recommendation says
    nothing: FP32 comes first, with nothing but the network in the file, and INT8 last, that of ONNX Runtime before
    any other, because its integer kernels round alike everywhere.

    Args:
        bundle: A verified bundle.
        runtime: Only this one.
        precision: Only this one.
        values: Rather values per class than a class map, where the bundle holds a network in both forms.

    Raises:
        UserError: A name is unknown.
        UnsupportedError: Nothing in it can run here; the message says what there is and what is missing.
    """
    # Sorting keeps the order of preference among those whose instructions are there. Asking a runtime imports
    # its library, so that none after the first that can run is asked.
    reasons: list[str] = []
    wanted = _wanted(bundle, runtime, precision, values=values)
    for candidate in sorted(wanted, key=lambda each: bool(missing_isa(each.entry))):
        reason = _obstacle(candidate)
        if not reason:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise UnsupportedError("nothing in the bundle can run on this machine", hint="; ".join(reasons))


def twin_of(entry: ArtifactEntry, manifest: Manifest) -> ArtifactEntry | None:
    """The artefact that is the same network as `entry`, a class map, without its upsampling and argmax."""
    if entry.postprocess.output != "classmap":
        return None
    alike = [
        other
        for other in manifest.artifacts
        if other.postprocess.output == "logits"
        and (other.precision, other.recipe) == (entry.precision, entry.recipe)
        and set(other.runtimes) & set(entry.runtimes)
    ]
    # The form made for the same devices, where there is one beside the form for any.
    return max(alike, key=lambda other: other.profile == entry.profile, default=None)


def answering(chosen: Candidate, bundle: Bundle) -> Candidate | None:
    """`chosen` with its upsampling and argmax inside the graph, computed the same way.

    None where the bundle holds no such file, because it was not faster, or where this machine cannot run it, or is of
    another architecture, on which nobody knows what is faster.
    """
    if made_elsewhere(bundle.manifest):
        return None
    for each in candidates(bundle.manifest):
        if (
            _alike(each, chosen)
            and twin_of(each.entry, bundle.manifest) == chosen.entry
            and each.entry.inputs == chosen.entry.inputs
        ):
            runs = missing_isa(each.entry) == missing_isa(chosen.entry) and not _obstacle(each)
            return each if runs else None
    return None


def candidates(manifest: Manifest, *, values: bool = True, elsewhere: bool = False) -> tuple[Candidate, ...]:
    """Every way to run the bundle, the preferred one first.

    A network with its tail in the graph is shipped where that is faster, so it stands right before the same
    network without, or right behind it where `values` per class are wanted.

    Args:
        manifest: Of the bundle.
        values: Rather values per class than class maps.
        elsewhere: For another architecture than the bundle was made on, see `select`.
    """
    found: dict[tuple[str, ...], Candidate] = {}
    for entry in manifest.artifacts:
        for measured in entry.measurements:
            told = measured.boundary == "core" or entry.postprocess.output == "classmap"
            if measured.status in ("ok", "built, not run") and told:
                candidate = Candidate(entry, measured.runtime, measured.precision, measured)
                found.setdefault(_way(candidate), candidate)
        tried = {(candidate.runtime, candidate.precision) for candidate in found.values() if candidate.entry == entry}
        for name in entry.runtimes:
            if (name, entry.precision) not in tried:
                candidate = Candidate(entry, name, entry.precision, None)
                found[_way(candidate)] = candidate

    def rank(candidate: Candidate) -> tuple[Any, ...]:
        twin = twin_of(candidate.entry, manifest)
        alike = [other for other in found.values() if other.entry is twin and _alike(other, candidate)]
        same = min(alike, key=lambda other: other.options != candidate.options, default=None)
        best = same or candidate
        preference = _without_measurements(best) if elsewhere else _preference(best, manifest.recommended)
        return (*preference, (same is not None) == (values or elsewhere))

    return tuple(sorted(found.values(), key=rank))


def missing_isa(entry: ArtifactEntry) -> tuple[str, ...]:
    """The instruction sets that `entry` requires and this processor certainly lacks."""
    if not entry.requires:
        return ()
    from mscsa_deploy.core.environment import lacking_isa

    return lacking_isa(entry.requires)


def made_elsewhere(manifest: Manifest) -> str:
    """The architecture that the bundle was measured and verified on, where this machine has another; else empty."""
    made = manifest.environment.get("arch")
    if not isinstance(made, str):
        return ""
    from mscsa_deploy.core.environment import architecture

    return made if made != architecture() else ""


def _way(candidate: Candidate) -> tuple[str, ...]:
    """What tells one way to run a bundle from another."""
    settings = json.dumps(candidate.options, sort_keys=True)
    return (candidate.entry.path, candidate.runtime, candidate.precision, candidate.device, settings)


def _alike(one: Candidate, other: Candidate) -> bool:
    """Whether both compute the same way, whatever file they run."""
    first, second = ((each.runtime, each.precision, each.device, each.rest) for each in (one, other))
    return first == second


def _preference(candidate: Candidate, choice: Choice | None) -> tuple[Any, ...]:
    recommended = choice is not None and (choice.artifact, choice.runtime, choice.precision) == (
        candidate.entry.path,
        candidate.runtime,
        candidate.precision,
    )
    latency = candidate.measured.latency_ms if candidate.measured else None
    return (
        not recommended,
        candidate.lossy,
        latency is None,
        latency.p50 if latency else 0.0,
        -PRECISIONS.index(candidate.precision),
        _suits(candidate),
    )


def _without_measurements(candidate: Candidate) -> tuple[Any, ...]:
    """The preference where what was measured says nothing."""
    return (
        -PRECISIONS.index(candidate.precision),
        candidate.precision == "int8" and candidate.runtime != "onnxruntime",
        candidate.rest != "fp32",
        _suits(candidate),
    )


def _suits(candidate: Candidate) -> int:
    """How well the file suits its runtime, 0 being best."""
    runtimes = candidate.entry.runtimes
    return runtimes.index(candidate.runtime) if candidate.runtime in runtimes else len(runtimes)


def _wanted(bundle: Bundle, runtime: str | None, precision: str | None, *, values: bool) -> list[Candidate]:
    if runtime is not None:
        if runtime not in RUNTIMES:
            raise unknown_name("runtime", runtime, OFFERED)
        bundle.artifacts_for(runtime)
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    elsewhere = bool(made_elsewhere(bundle.manifest))
    found = [
        candidate
        for candidate in candidates(bundle.manifest, values=values, elsewhere=elsewhere)
        if runtime in (None, candidate.runtime) and precision in (None, candidate.precision)
    ]
    if not found:
        asked = " ".join(filter(None, (precision, f"for {runtime}" if runtime else "")))
        raise UnsupportedError(
            f"the bundle holds no artefact in {asked}" if precision else "the bundle holds no artefact",
            hint=f"it holds: {contents(bundle.manifest)}",
        )
    return found


def _obstacle(candidate: Candidate) -> str:
    """Why this machine cannot run `candidate`; empty if it can."""
    if candidate.runtime not in RUNTIMES:
        return "unknown runtime"
    can = RUNTIMES.load(candidate.runtime)().probe()
    if not can.available:
        return f"{can.reason} ({can.how_to_install})" if can.how_to_install else can.reason
    if candidate.precision not in can.precisions:
        return f"it cannot execute {candidate.precision} here"
    if candidate.precision == "int8" and candidate.rest not in can.precisions:
        return f"it cannot execute {candidate.rest} here, in which its float rest was measured"
    return "" if candidate.device in can.devices else f"there is no device '{candidate.device}' here"
