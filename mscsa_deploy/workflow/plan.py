"""What a deployment is going to do, decided before any of it is done."""

from __future__ import annotations

from mscsa_deploy.errors import unknown_name
from mscsa_deploy.workflow.deployment import DeployRequest, Plan
from mscsa_deploy.workflow.quantize import recipes_for

RUNTIME_ORDER = ("pytorch", "onnxruntime", "openvino", "tensorrt")


def make_plan(request: DeployRequest) -> Plan:
    """Decide device profile, runtimes and recipes.

    Raises:
        UserError: An unknown runtime, profile or recipe.
    """
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.profile import pick_profile, read_profile

    environment = read_environment()
    if request.device:
        profile, why = read_profile(request.device), "named with --device"
    else:
        profile, why = pick_profile(environment)
    for name in request.runtimes or ():
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, [name for name in RUNTIMES if name != "fake"])
    names = request.runtimes or profile.default_runtimes
    runtimes = tuple(sorted(dict.fromkeys(names), key=_order))
    recipes = {
        name: tuple(each.name for each in recipes_for(name, profile, request.model.partition(".")[0]))
        for name in runtimes
        if name in profile.runtimes and "int8" in profile.runtimes[name].precisions
    }
    return Plan(profile, why, runtimes, bool(request.runtimes), recipes, environment)


def _order(name: str) -> int:
    return RUNTIME_ORDER.index(name) if name in RUNTIME_ORDER else len(RUNTIME_ORDER)
