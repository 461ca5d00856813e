"""`quantize`: a float model becomes INT8 for one runtime and device, and is kept only if it is right and pays."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.artifact import model_bytes, weights_beside
from mscsa_deploy.core.config import Record, to_json
from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Metric, ParityNumbers
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.workflow.images import quoted_images
from mscsa_deploy.workflow.opening import open_subject
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.quantize_bench import Bench, QuantizeRequest, open_bench
from mscsa_deploy.workflow.quantize_search import log_lines, search

if TYPE_CHECKING:
    from mscsa_deploy.calibration.quantizer import Quantized
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.core.environment import Environment
    from mscsa_deploy.runtimes.profile import DeviceProfile
    from mscsa_deploy.workflow.evaluate import Evaluation

logger = logging.getLogger(__name__)


class QuantizeOutcome(Record, frozen=True, kw_only=True):
    """What came out; `artifact` is empty when nothing within budget was faster than float.

    `best_float` names the float variant that INT8 had to beat; `search` has a line per candidate of a search;
    `unreadable` says how many pictures of an image set could not be read, where there were such;
    `recipe_file` is beside the artefact what `deploy --recipe` takes to ship it.
    """

    model: str
    runtime: str
    profile: str
    passed: bool
    verdict: str
    artifact: str = ""
    sha256: str = ""
    recipe: dict[str, Any] = msgspec.field(default_factory=dict)
    recipe_file: str = ""
    size_bytes: int | None = None
    samples: int = 0
    unreadable: dict[str, int] = msgspec.field(default_factory=dict)
    metric: Metric | None = None
    parity: ParityNumbers | None = None
    quantized_ops: int = 0
    left_float: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    best_float: str = ""
    search: tuple[dict[str, Any], ...] = ()


def recipe_for(runtime: str, profile: DeviceProfile, model: str, *, named: str | None = None) -> CalibrationRecipe:
    """The calibration recipe to use: the one named, or the best for this ``NAME.TASK`` on this class of device.

    Raises:
        UserError: No recipe fits, or the named one is for another runtime.
    """
    from mscsa_deploy.calibration.recipe import default_recipe, read_recipe

    if named is not None:
        recipe = read_recipe(named)
        if recipe.runtime != runtime:
            raise UserError(f"recipe '{named}' is for {recipe.runtime}, not for {runtime}")
        return recipe
    return default_recipe(runtime, model=model, **_device(profile))


def recipes_for(runtime: str, profile: DeviceProfile, model: str) -> tuple[CalibrationRecipe, ...]:
    """The recipes that `deploy` tries for this model on this class of device, at least one.

    Where the profile has the runtime compute in BF16 and a recipe is made for a BF16 rest, that is a second one.

    Raises:
        UserError: No recipe fits.
    """
    from mscsa_deploy.calibration.recipe import bf16_recipe

    found = (recipe_for(runtime, profile, model),)
    if "bf16" not in profile.runtimes[runtime].precisions:
        return found
    further = bf16_recipe(runtime, model=model, **_device(profile))
    return (*found, further) if further else found


def _device(profile: DeviceProfile) -> dict[str, Any]:
    """What recipes ask of a device; of this machine they may use everything it has."""
    from mscsa_deploy.core.environment import isa_flags, read_environment
    from mscsa_deploy.runtimes.profile import pick_profile

    here = pick_profile(read_environment())[0].name == profile.name
    isa = {*profile.match.isa_all, *(isa_flags() if here else ())}
    return {"architecture": profile.match.arch or "x86_64", "isa": isa}


def run_quantize(
    request: QuantizeRequest, out: Path, *, force: bool = False, progress: Progress = silent
) -> tuple[QuantizeOutcome, int]:
    """Quantize, judge, and leave the artefact and its report in the directory `out`; returns the exit code too.

    Raises:
        UserError: The model, images or recipe do not exist or do not fit.
        UnsupportedError: A search is asked for a device that this machine is not.
        StageError: The quantizer failed.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    refuse_existing(out, force=force)
    environment = read_environment()
    profile = read_profile(request.device) if request.device else pick_profile(environment)[0]
    by_recipe = request.recipe is not None or request.runtime == "tensorrt"
    if not by_recipe:
        _refuse_elsewhere(profile, environment)
    subject = open_subject(request.model, request, profile, progress, runtimes=(request.runtime,), rewrite=True)
    quoted = quoted_images(subject.task)
    base = recipe_for(request.runtime, profile, f"{subject.name}.{subject.task}", named=request.recipe)
    with write_output(out, force=force) as work, tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        place = Path(folder)
        bench = open_bench(request, subject, profile, environment, place, apart_from=(quoted,), progress=progress)
        if by_recipe:
            outcome, made = _by_recipe(base, bench)
        else:
            outcome, made = _by_search(base, bench)
        if made is not None:
            for file in (made.artifact.path, *weights_beside(made.artifact.path)):
                shutil.copyfile(file, work / file.name)
            _write_recipe(outcome, work)
        (work / "quantize.json").write_bytes(to_json(outcome))
    return outcome, 0 if outcome.passed else 5


def _refuse_elsewhere(profile: DeviceProfile, environment: Environment) -> None:
    """Raise `UnsupportedError` if this machine is not of the class `profile`: what is fast there is not seen here."""
    from mscsa_deploy.runtimes.profile import matching

    match = profile.match
    if not environment.isa:
        # Not every system lists what its processor has; what is not known does not tell machines apart.
        environment = replace(environment, isa=(*match.isa_all, *match.isa_any))
    if not matching(match, environment):
        raise UnsupportedError(
            f"a search measures on the machine it runs on, and this one ({environment.arch}, {environment.cpu}) is not "
            f"of the class '{profile.name}'",
            hint="run quantize on such a device, or make the INT8 file without a search: --recipe NAME|FILE",
        )


def _write_recipe(outcome: QuantizeOutcome, work: Path) -> None:
    """The recipe as a file that `deploy --recipe` takes; a BF16 rest is said in it, not in its name."""
    from mscsa_deploy.calibration.recipe import CalibrationRecipe

    recipe = msgspec.convert(outcome.recipe, CalibrationRecipe)
    recipe = recipe.changed(recipe.name_alone)
    (work / outcome.recipe_file).write_text(recipe.toml(), encoding="utf-8")


def _idle_draw(bench: Bench, recipe: CalibrationRecipe | None) -> tuple[str, ...]:
    """Why another draw changed nothing, where the set holds no more pictures than are drawn."""
    held = len(bench.samples)
    if not bench.request.draw or recipe is None or held > recipe.samples:
        return ()
    told = f"--draw changed nothing: recipe '{recipe.name}' takes {recipe.samples} pictures, the set holds {held}"
    logger.warning(told)
    return (told,)


def _by_recipe(recipe: CalibrationRecipe, bench: Bench) -> tuple[QuantizeOutcome, Quantized | None]:
    made = bench.make(recipe)
    score = bench.score(bench.variant(made, recipe), recipe.name)
    passed, verdict = bench.judge(score)
    outcome = _outcome(bench, passed=passed, verdict=verdict, made=made, recipe=recipe, score=score)
    return outcome, made if passed else None


def _by_search(base: CalibrationRecipe, bench: Bench) -> tuple[QuantizeOutcome, Quantized | None]:
    found, best = search(base, bench)
    log = log_lines(found.entries)
    if found.recipe is None:
        verdict = (
            f"{found.verdict}; ship the float file, run as {best.label} (--recipe NAME makes an INT8 file all the same)"
        )
        return _outcome(bench, passed=False, verdict=verdict, best_float=best.label, search=log), None
    made = bench.make(found.recipe)
    score = bench.score(bench.variant(made, found.recipe), found.recipe.name)
    outcome = _outcome(
        bench,
        passed=True,
        verdict=found.verdict,
        made=made,
        recipe=found.recipe,
        score=score,
        best_float=best.label,
        search=log,
    )
    return outcome, made


def _outcome(
    bench: Bench,
    *,
    passed: bool,
    verdict: str,
    made: Quantized | None = None,
    recipe: CalibrationRecipe | None = None,
    score: Evaluation | None = None,
    best_float: str = "",
    search: tuple[dict[str, Any], ...] = (),
) -> QuantizeOutcome:
    kept = made if passed else None
    return QuantizeOutcome(
        model=bench.subject.name,
        runtime=bench.request.runtime,
        profile=bench.profile.name,
        passed=passed,
        verdict=verdict,
        artifact=kept.artifact.path.name if kept else "",
        sha256=kept.artifact.sha256 if kept else "",
        recipe=recipe.plain() if recipe else {},
        recipe_file=f"{recipe.name_alone}.toml" if kept and recipe else "",
        size_bytes=model_bytes(kept.artifact.path) if kept else None,
        samples=made.samples if made else 0,
        unreadable=dict(bench.unreadable),
        metric=score.metric(bench.reference) if score else None,
        parity=score.parity.numbers() if score and score.parity else None,
        quantized_ops=made.quantized_ops if made else 0,
        left_float=tuple(f"{left.op} {left.node}: {left.reason}" for left in made.left_float) if made else (),
        notes=(*_idle_draw(bench, recipe), *(made.notes if made else ())),
        best_float=best_float,
        search=search,
    )
