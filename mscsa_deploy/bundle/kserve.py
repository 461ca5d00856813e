"""What KServe needs, as one zip: an InferenceService and the Triton model repository that it loads.

Formats: KServe's ``serving.kserve.io/v1beta1`` InferenceService; the repository is that of `bundle.triton`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.bundle.archive import write_zip
from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.bundle.triton import by_backend, model_name, repository, sources

if TYPE_CHECKING:
    from mscsa_deploy.bundle.store import Bundle

CLAIM = "models"
"""The persistent volume claim that the manifest names; the README says where to change it."""
REPOSITORY = "model-repository"


def pack(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write the bundle at `directory` as a zip that holds an InferenceService and its model repository.

    Raises:
        UserError: It is no bundle, or `out` exists and `force` is false.
        UnsupportedError: No artefact is for a runtime that Triton has a backend of.
        StageError: The disk is full.
    """
    bundle = read_bundle(directory)
    name = model_name(bundle.manifest)
    # KServe's Triton image has no mscsa-deploy: only the bare networks go there.
    bare = {path: content for path, content in repository(bundle).items() if not path.startswith(f"{name}/")}
    members: dict[str, Path | bytes] = {
        "inference-service.yaml": manifest_text(bundle).encode(),
        "README.md": _readme(name, sources(bundle)).encode(),
        **{f"{REPOSITORY}/{path}": content for path, content in bare.items()},
    }
    return write_zip(members, out, force=force)


def manifest_text(bundle: Bundle) -> str:
    """The InferenceService, as YAML (every value is written as JSON, which YAML contains).

    Raises:
        UnsupportedError: No artefact is for a runtime that Triton has a backend of.
    """
    name = model_name(bundle.manifest)
    threads = next(iter(by_backend(bundle).values())).threads
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(_dns_name(name))}
  annotations:
    mscsa-deploy.org/model: {json.dumps(bundle.manifest.model.name)}
    mscsa-deploy.org/task: {json.dumps(bundle.manifest.task)}
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 4
    scaleMetric: concurrency
    scaleTarget: 4
    timeout: 10
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: "pvc://{CLAIM}/{name}/{REPOSITORY}"
      resources:
        requests:
          cpu: "{threads * 2}"
          memory: 1Gi
        limits:
          cpu: "{threads * 2}"
          memory: 2Gi
"""


def _dns_name(name: str) -> str:
    """The name as Kubernetes allows it: lower case, digits and dashes, at most 50 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50] or "model"


def _readme(name: str, networks: str) -> str:
    return f"""# {name} on KServe

1. Copy `{REPOSITORY}/` to where the cluster reads models. `inference-service.yaml` names the persistent volume claim
   `{CLAIM}`, path `{name}/{REPOSITORY}`; change `storageUri` for another place (s3://, gs://, https://).
2. `kubectl apply -f inference-service.yaml`

It serves the bare network with the Open Inference Protocol v2: the preprocessed tensor in, the graph's output out:

{networks}

For pictures in and class maps out, run `mscsa-deploy serve` in a container of your own as a custom predictor: it
speaks the same protocol.
"""
