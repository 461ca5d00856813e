"""A bundle inside Triton's python backend: the same inputs, outputs and answers as our own server.

`pack --format triton` writes a model.py that imports the class below; Triton makes one object per instance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.errors import DeployError
from mscsa_deploy.runner import load
from mscsa_deploy.serving.model import ServedModel
from mscsa_deploy.serving.refusal import Refusal, refusal_of
from mscsa_deploy.serving.settings import Limits


class TritonPythonModel:
    """What Triton calls; its names are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle beside the model file."""
        import triton_python_backend_utils as vendor

        self._vendor: Any = vendor
        self._outputs = [item["name"] for item in json.loads(args["model_config"])["output"]]
        place = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._model = ServedModel(load(read_bundle(place), values=True), max_pixels=Limits().pixels, max_batch=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Release the session."""
        self._model.close()

    def _answer(self, request: Any) -> Any:
        vendor = self._vendor
        try:
            wanted = list(request.requested_output_names())
            # A request that names no output arrives as one that names all.
            names = [] if set(wanted) == set(self._outputs) else wanted
            prepared = self._model.prepare({tensor.name(): tensor.as_numpy() for tensor in request.inputs()}, names)
            raw = self._model.compute(prepared.tensor, prepared.runner)
            outputs = self._model.answers(prepared, raw, names)
        except (Refusal, DeployError) as error:
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            return vendor.InferenceResponse(output_tensors=[], error=self._error(refusal))
        return vendor.InferenceResponse(output_tensors=[vendor.Tensor(name, array) for name, array in outputs.items()])

    def _error(self, refusal: Refusal) -> Any:
        """Triton's error; its older versions know no codes."""
        error: Any = self._vendor.TritonError
        if refusal.status < 500 and hasattr(error, "INVALID_ARG"):
            return error(refusal.message, error.INVALID_ARG)
        return error(refusal.message)
