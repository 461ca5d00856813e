"""One whole answer before a model is served: what its manifest says must be what its network does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import DeployError, UserError
from mscsa_deploy.imaging.preprocess import model_input
from mscsa_deploy.serving.calls import PictureCall
from mscsa_deploy.serving.model import CLASS_MAP, OVERLAY, Prepared

if TYPE_CHECKING:
    from mscsa_deploy.runner import Runner
    from mscsa_deploy.serving.model import ServedModel


def try_out(model: ServedModel) -> None:
    """Answer a made-up picture with each session, from its pixels to the bytes; the sessions are warm then.

    Raises:
        UserError: The manifest fits its network in no way that gives an answer: another task, output or preprocessing.
        StageError: The runtime failed, or the network answered with NaN.
    """
    for runner in (model.runner, model.answering):
        if runner is None:
            continue
        try:
            _answer(model, runner)
        except (DeployError, MemoryError):
            raise
        except Exception as error:
            # Whatever numpy makes of values of another shape than the manifest tells.
            entry = runner.candidate.entry
            raise UserError(
                f"the manifest does not fit its network '{entry.path}': task '{model.task}' and output "
                f"'{entry.postprocess.output}' give no answer ({type(error).__name__}: {error})",
                hint="make the bundle anew",
            ) from error


def _answer(model: ServedModel, runner: Runner) -> None:
    spec = runner.manifest.preprocess
    # Not of one color, which a network may divide by the spread of.
    image = np.resize(np.arange(256, dtype=np.uint8), (spec.height, spec.width, 3))
    tensor = model_input(image, spec, runner.candidate.entry.inputs[0].dtype)
    prepared = Prepared(tensor, (spec.height, spec.width), runner, (image,))
    raw = model.compute(tensor, runner)
    PictureCall(b"", "json", name="", version="").reply(model, prepared, raw)
    model.answers(prepared, raw, ())
    if model.task == "seg":
        model.answers(prepared, raw, (CLASS_MAP, OVERLAY))
