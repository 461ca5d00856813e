"""`quantize`: an ONNX file becomes INT8 for one runtime and device, and is kept only if it is right and pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.runtimes.profile import DeviceProfile


def recipe_for(runtime: str, profile: DeviceProfile, model: str, *, named: Path | None = None) -> CalibrationRecipe:
    """The calibration recipe to use: the one named, or the best for this model on this class of device.

    Raises:
        UserError: No recipe fits, or the named one is for another runtime.
    """
    from mscsa_deploy.calibration.recipe import default_recipe, read_recipe
    from mscsa_deploy.core.environment import isa_flags
    from mscsa_deploy.errors import UserError

    if named is not None:
        recipe = read_recipe(str(named))
        if recipe.runtime != runtime:
            raise UserError(f"recipe '{named}' is for {recipe.runtime}, not for {runtime}")
        return recipe
    architecture = profile.match.arch or "x86_64"
    isa = {*profile.match.isa_all, *(isa_flags() if _is_this_machine(profile) else ())}
    return default_recipe(runtime, model=model, architecture=architecture, isa=isa)


def _is_this_machine(profile: DeviceProfile) -> bool:
    from mscsa_deploy.core.environment import read_environment
    from mscsa_deploy.runtimes.profile import pick_profile

    return pick_profile(read_environment())[0].name == profile.name
