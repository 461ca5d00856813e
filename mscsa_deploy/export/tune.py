"""The optimized graph in the form that one runtime runs fastest; the numbers stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.files import output_file
from mscsa_deploy.export.numeric import SameNumbers, make_feeds
from mscsa_deploy.export.versions import tool_versions
from mscsa_deploy.graphs.check import read_model, signature, to_bytes
from mscsa_deploy.graphs.passes import optimizations_for
from mscsa_deploy.graphs.rewrite import rewrite

if TYPE_CHECKING:
    from pathlib import Path


def tune_for(runtime: str, artifact: Artifact, out: Path) -> Artifact:
    """Write `artifact`, an optimized ONNX file, to `out` with the passes that help `runtime` only.

    Args:
        runtime: Name of the runtime.
        artifact: A float32 ONNX file that had the common passes.
        out: Replaced if it exists.

    Returns:
        The new file; `artifact` itself, and no file, where no pass changed anything.

    Raises:
        StageError: A pass left an invalid graph or moved the numbers.
    """
    model = read_model(artifact.path)
    feeds = make_feeds(signature(model)[0])
    records = rewrite(model, optimizations_for(runtime), verify=SameNumbers(artifact.path.read_bytes(), feeds))
    changed = [record.name for record in records if record.changed]
    if not changed:
        return artifact
    with output_file(out, force=True) as work:
        work.write_bytes(to_bytes(model))
    inputs, outputs = signature(model)
    settings = {"runtime": runtime, "passes": changed}
    made_by = MadeBy("tune", settings, parent=artifact.sha256, tools=tool_versions())
    return Artifact.of(out, kind="onnx", precision=artifact.precision, inputs=inputs, outputs=outputs, made_by=made_by)
