"""Bundle manifest, version 1: what an app must know to run the model and to trust the files.

The JSON Schema of these records is `docs/bundle-manifest.schema.json`. Unknown keys are refused, so a new
key means a new version.
"""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, Literal

import msgspec

from mscsa_deploy.bundle.fields import (
    Axis,
    BundlePath,
    Channel,
    OptionalPath,
    OptionalSha256,
    Sha256,
    Size,
    Stride,
)
from mscsa_deploy.bundle.golden import Golden
from mscsa_deploy.core.config import Config, to_json
from mscsa_deploy.core.report import Boundary, Latency, Metric, Status
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.core.vocabulary import Output, Stored, Task
from mscsa_deploy.imaging.preprocess import Preprocess

VERSION = 1
SCHEMA_ID = "https://mscsa-deploy.org/schemas/bundle-manifest-1.json"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["onnx", "openvino", "engine", "fake"]
Role = Literal["artifact", "report", "samples", "picture", "golden", "document", "recipe", "other"]


class FileEntry(Config, frozen=True, kw_only=True):
    """One file of the bundle.

    Args:
        path: Relative to the bundle, with forward slashes.
        sha256: Of its content, 64 hexadecimal digits.
        size_bytes: Its length.
        role: What it is for.
    """

    path: BundlePath
    sha256: Sha256
    size_bytes: Size
    role: Role = "other"


class Tensor(Config, frozen=True, kw_only=True):
    """One input or output.

    Args:
        name: Its name in the graph.
        dtype: NumPy's name of its type.
        shape: Its axes; float pictures are NCHW, pixels NHWC; -1 is a free axis.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]

    @classmethod
    def of(cls, spec: TensorSpec) -> Tensor:
        """The record of a tensor spec."""
        return cls(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape))


class BundleModel(Config, frozen=True, kw_only=True):
    """Which model this is and where its weights came from.

    Args:
        name: Its name in the zoo, or the foreign file's own.
        sha256: Of the checkpoint; empty when the weights are random or came with an ONNX file.
        random_weights: True marks a model that was never trained.
        params: Number of parameters.
        macs: Multiply-accumulates of one forward pass at the input size.
        options: What the architecture was built with.
        source: Paper, code and data in words.
    """

    name: str
    sha256: OptionalSha256 = ""
    random_weights: bool = False
    params: int | None = None
    macs: int | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    source: str = ""


class Postprocess(Config, frozen=True, kw_only=True):
    """How an output becomes the answer.

    Segmentation: the output (after `upsample` to the input's height and width) holds one value per class
    and pixel; the class of a pixel is the lowest of those with the largest value; the class map goes back to
    the picture's size by `restore`: the result's pixel (y, x) takes the class at
    ``floor((y + 0.5) * height / picture_height)`` and likewise for x. Classification: softmax over the
    classes, best first.

    Args:
        output: What the graph computes. ``logits``: values per class, for segmentation at the model's
            stride; ``logits-full``: at input size; ``classmap``: the winning class per pixel; ``probs``:
            after the softmax.
        tensor: Name of that output in the graph.
        stride: Input pixels per output pixel along each axis; 1 at input size and for classification.
        upsample: ``bilinear``: half-pixel centers (``align_corners`` false), borders repeated, float32;
            ``none``: nothing left to do.
        decide: What the app does with the values.
        restore: How a class map is brought to the picture's size.
    """

    output: Output
    tensor: str
    stride: Stride = 1
    upsample: Literal["bilinear", "none"] = "none"
    decide: Literal["argmax", "softmax", "none"]
    restore: Literal["nearest", "none"] = "none"

    @classmethod
    def of(cls, task: Task, output: Output, *, tensor: str, stride: int = 1) -> Postprocess:
        """What follows from the task and the output boundary."""
        if task == "cls":
            return cls(output=output, tensor=tensor, decide="none" if output == "probs" else "softmax")
        return cls(
            output=output,
            tensor=tensor,
            stride=stride if output == "logits" else 1,
            upsample="bilinear" if output == "logits" else "none",
            decide="none" if output == "classmap" else "argmax",
            restore="nearest",
        )


class LeftFloat(Config, frozen=True, kw_only=True):
    """A node of an INT8 artefact that computes in floating point.

    Args:
        node: Its name in the graph.
        op: Its operator.
        reason: Why it was left.
    """

    node: str
    op: str
    reason: str


class Measurement(Config, frozen=True, kw_only=True):
    """What one artefact did on one runtime when the bundle was made.

    Args:
        runtime: Name of the runtime.
        runtime_version: Version of its library.
        precision: What the runtime was asked to compute in.
        executed_precision: What it really computed in, read back.
        profile: The device profile it was tuned for.
        device: ``cpu`` or ``cuda``.
        threads: Compute threads.
        boundary: ``core``: tensor in, tensor out; ``end_to_end``: picture bytes in, answer out.
        status: As in the report.
        reason: Why it failed or did not run.
        latency_ms: Latency of one call.
        metric: Task accuracy on the evaluation images.
        argmax_agreement: Percent of decisions equal to the FP32 reference's.
        isa: Instruction set extensions of the machine it was verified on.
        options: The runtime's own settings it was measured with.
    """

    runtime: str
    runtime_version: str = ""
    precision: Precision
    executed_precision: str = ""
    profile: str = ""
    device: str = "cpu"
    threads: int = 1
    boundary: Boundary = "core"
    status: Status
    reason: str = ""
    latency_ms: Latency | None = None
    metric: Metric | None = None
    argmax_agreement: float | None = None
    isa: tuple[str, ...] = ()
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class OrtFiles(Config, frozen=True, kw_only=True):
    """An artefact in ONNX Runtime's own format, which its smaller builds for phones load.

    Args:
        path: The .ort file; inputs, outputs and answers are the artefact's.
        operators: The operators and types it needs, for ONNX Runtime's ``--include_ops_by_config``.
    """

    path: BundlePath
    operators: BundlePath


class ArtifactEntry(Config, frozen=True, kw_only=True):
    """One model file, for the runtimes that can load it.

    Args:
        path: The file to load.
        files: Further files it needs beside it (OpenVINO's weights).
        kind: Its format.
        precision: What it stores.
        runtimes: Runtimes it was made for, the one it suits best first.
        profile: The device profile it was made for; empty when it is for any.
        requires: Instruction set extensions without which it is slow or inexact, e.g. ``avx512_vnni``.
        inputs: Its inputs, in order.
        outputs: Its outputs, in order.
        postprocess: How its output becomes the answer.
        recipe: Name of the calibration recipe, for INT8.
        left_float: What stayed float in an INT8 artefact.
        measurements: What it did where the bundle was made.
        mobile: The same model for ONNX Runtime's builds for phones; None when it was not asked for.
    """

    path: BundlePath
    files: tuple[BundlePath, ...] = ()
    kind: Kind
    precision: Stored
    runtimes: tuple[str, ...]
    profile: str = ""
    requires: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    postprocess: Postprocess
    recipe: str = ""
    left_float: tuple[LeftFloat, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    mobile: OrtFiles | None = None


class Choice(Config, frozen=True, kw_only=True):
    """The artefact to use on a device like the one the bundle was made on.

    Args:
        artifact: Path of the file.
        runtime: What to run it on.
        precision: What the runtime is asked to compute in.
        threads: Compute threads it was the best with.
        reason: Why this one, in words.
    """

    artifact: BundlePath
    runtime: str
    precision: Precision
    threads: int = 1
    reason: str = ""


class Manifest(Config, frozen=True, kw_only=True):
    """The whole manifest.

    Args:
        schema_version: Of this layout.
        model: Which model this is.
        task: ``cls`` (one class per picture) or ``seg`` (one class per pixel).
        labels: Class names, in the order of the output's classes.
        palette: Display color per class, RGB 0..255; empty for classification.
        input: The network's input.
        preprocess: From picture to input.
        artifacts: The model files.
        recommended: Which one to use; None when none passed.
        files: Every file but the manifest itself, by path.
        golden: The pair to check an implementation with.
        license: SPDX expression or words for the weights.
        model_card: Path of the model card inside the bundle.
        recipe: Everything needed to make the bundle again, resolved.
        tools: Versions of what took part.
        environment: The device it was made and measured on.
        data: The image sets and their sizes.
    """

    schema_version: Annotated[int, msgspec.Meta(ge=1, extra_json_schema={"const": VERSION})] = VERSION
    model: BundleModel
    task: Task
    labels: tuple[str, ...]
    palette: tuple[tuple[Channel, Channel, Channel], ...] = ()
    input: Tensor
    preprocess: Preprocess
    artifacts: tuple[ArtifactEntry, ...]
    recommended: Choice | None = None
    files: tuple[FileEntry, ...] = ()
    golden: Golden | None = None
    license: str = ""
    model_card: OptionalPath = ""
    recipe: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: dict[str, str] = msgspec.field(default_factory=dict)
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    data: dict[str, Any] = msgspec.field(default_factory=dict)


_ALWAYS_THERE = {
    "Manifest": ("schema_version", "palette", "files"),
    "ArtifactEntry": ("files", "requires", "measurements"),
}
"""Fields that have a default where a manifest is made, and which readers in other languages ask for."""


def json_schema() -> dict[str, Any]:
    """The manifest's JSON Schema (draft 2020-12)."""
    schema = msgspec.json.schema(Manifest)
    for name, definition in schema["$defs"].items():
        _tell_fields(definition)
        for field in _ALWAYS_THERE.get(name, ()):
            definition["required"].append(field)
            del definition["properties"][field]["default"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": f"mscsa-deploy bundle manifest, version {VERSION}",
        **schema,
    }


def _tell_fields(definition: dict[str, Any]) -> None:
    """Move what the docstring of a record says under ``Args:`` to the fields it speaks of."""
    # Python takes the indentation out of docstrings from 3.13 on.
    text, _, listed = inspect.cleandoc(definition.get("description", "")).partition("\n\nArgs:\n")
    if text:
        definition["description"] = text
    for name, told in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", listed, re.MULTILINE):
        definition["properties"][name]["description"] = re.sub(r"\s+", " ", told)


def json_schema_text() -> str:
    """The JSON Schema as committed in ``docs/``."""
    return to_json(json_schema()).decode()
