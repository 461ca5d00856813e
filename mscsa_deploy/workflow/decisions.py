"""What a deployment decides by itself, as the report records it; a replay decides anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mscsa_deploy.core.report import Decision

if TYPE_CHECKING:
    from mscsa_deploy.workflow.deployment import Plan
    from mscsa_deploy.workflow.tailed import Tailed


def of_plan(plan: Plan, recipes: Collection[str] = ()) -> list[Decision]:
    """Device profile, runtimes and calibration recipes; `recipes` are those that the user named."""
    from mscsa_deploy.calibration.recipe import read_recipe

    why = "named with --runtime" if plan.named else f"the list of {plan.profile.name}"
    made = [
        Decision(subject="device profile", choice=plan.profile.name, reason=plan.why_profile),
        Decision(subject="runtimes", choice=", ".join(plan.runtimes), reason=why),
    ]
    for runtime, names in plan.recipes.items():
        for name in names:
            recipe = read_recipe(name)
            needs = ", ".join(recipe.requires)
            subject = f"calibration recipe for {runtime}"
            subject += " with a BF16 rest" if recipe.rest == "bf16" else ""
            default = f"the most specific one for this model on {plan.profile.name}"
            reason = "named with --recipe" if name in recipes else default
            reason += f"; it requires {needs}" if needs else ""
            made.append(Decision(subject=subject, choice=recipe.name, reason=reason))
    return made


def of_tails(tailed: Tailed) -> list[Decision]:
    """Where class maps are made, with what each form took from picture to class map."""
    return [
        Decision(subject=f"tail on {runtime}", choice=found.form, scores_ms=found.scores_ms)
        for runtime, found in tailed.decisions.items()
    ]
