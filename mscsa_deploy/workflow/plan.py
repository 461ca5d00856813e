"""What a deployment is going to do, decided before any of it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.errors import UserError, unknown_name
from mscsa_deploy.workflow.deployment import DeployRequest, Plan
from mscsa_deploy.workflow.prepare import recipe_of
from mscsa_deploy.workflow.quantize import recipes_for

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.profile import DeviceProfile

RUNTIME_ORDER = ("pytorch", "onnxruntime", "openvino", "tensorrt")


def make_plan(request: DeployRequest) -> Plan:
    """Decide device profile, runtimes and recipes.

    Raises:
        UserError: An unknown model, runtime, profile or recipe; a recipe for a runtime that is left out; a free batch.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes import OFFERED, RUNTIMES
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    exported = recipe_of(request)[0]
    if exported.batch == "dynamic":
        raise UserError(
            "'deploy' quantizes and measures files of a fixed batch, and the export recipe says batch = 'dynamic'",
            hint="take batch = 1; 'export' leaves a file with a free batch",
        )
    environment = read_environment()
    if request.device:
        profile, why = read_profile(request.device), "named with --device"
    else:
        profile, why = pick_profile(environment)
    for name in request.runtimes or ():
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, OFFERED)
    names = request.runtimes or profile.default_runtimes
    runtimes = tuple(sorted(dict.fromkeys(names), key=_order))
    recipes = _default_recipes(f"{exported.model}.{exported.task}", profile, runtimes) | _named_recipes(
        request.recipes or (), runtimes
    )
    return Plan(profile, why, runtimes, bool(request.runtimes), recipes, environment)


def _default_recipes(model: str, profile: DeviceProfile, runtimes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(each.name for each in recipes_for(name, profile, model))
        for name in runtimes
        if name in profile.runtimes and "int8" in profile.runtimes[name].precisions
    }


def _named_recipes(names: tuple[str, ...], runtimes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    from mscsa_deploy.calibration.recipe import read_recipe

    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        runtime = read_recipe(name).runtime
        if runtime not in runtimes:
            raise UserError(
                f"recipe '{name}' is for {runtime}, which is not among what is deployed for: {', '.join(runtimes)}"
            )
        found[runtime] = (*found.get(runtime, ()), name)
    return found


def _order(name: str) -> int:
    return RUNTIME_ORDER.index(name) if name in RUNTIME_ORDER else len(RUNTIME_ORDER)
