"""TensorRT engines built ahead of time from ONNX, on a machine with or without a GPU.

Both libraries have nearly the same Python interface: `tensorrt_rtx` builds for a list of compute capabilities
on any machine, the classic `tensorrt` for the GPU it finds. Networks are strongly typed: the precision is what
the ONNX file says, and TF32 is switched off.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.artifact import Artifact, MadeBy, model_digest
from mscsa_deploy.core.files import output_file, refuse_existing
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.runtimes.session import brief

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

LIBRARIES = ("tensorrt_rtx", "tensorrt")
HOW_TO_INSTALL = "pip install 'mscsa-deploy[tensorrt]'"
UNREADABLE = "MODEL_DESERIALIZE_FAILED"

_DTYPES = MappingProxyType(
    {
        "FLOAT": "float32",
        "HALF": "float16",
        "INT8": "int8",
        "INT32": "int32",
        "INT64": "int64",
        "UINT8": "uint8",
        "BOOL": "bool",
    }
)


def library() -> Any:
    """The TensorRT module that imports, TensorRT-RTX first.

    Raises:
        UnsupportedError: Neither is installed, or what is installed does not import.
    """
    problems = []
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            problems.append(f"{name} does not import: {brief(str(error), 120)}")
            continue
        if hasattr(module, "Builder"):
            return module
        problems.append(f"{name} is a placeholder without the library")
    raise UnsupportedError("; ".join(problems) or "neither tensorrt_rtx nor tensorrt is installed", hint=HOW_TO_INSTALL)


def targets(module: Any) -> tuple[str, ...]:
    """Compute capabilities that `module` can build for without a GPU, e.g. ``"86"``; none for the classic."""
    known = getattr(module, "ComputeCapability", None)
    names = known.__members__ if known is not None else ()
    return tuple(sorted((name[2:] for name in names if name.startswith("SM")), key=int))


def build_engine(
    onnx_path: Path,
    out: Path,
    *,
    compute_capabilities: tuple[str, ...] = (),
    force: bool = False,
) -> Artifact:
    """Build an engine from the ONNX file and write it to `out`.

    Args:
        onnx_path: A static-shape model; INT8 as symmetric Q/DQ pairs, FP16 as float16 tensors.
        out: The engine file, by convention ``*.engine``.
        compute_capabilities: GPUs to build for, e.g. ``("86", "89")``; empty for the library's choice
            (TensorRT-RTX: its default list; classic: the GPU of this machine).
        force: Replace an existing file.

    Returns:
        The engine; its precision is the lowest that the network holds.

    Raises:
        UserError: The ONNX file is missing or damaged, or has a free axis, or `out` exists.
        UnsupportedError: No library, or it cannot build for a capability on this machine.
        StageError: The parser or the builder refused the model; the message names code, node and operator.
    """
    if not onnx_path.is_file():
        raise UserError(f"there is no model file '{onnx_path}'")
    refuse_existing(out, force=force)
    module = library()
    _check_targets(module, compute_capabilities)
    log = listener(module)
    builder = module.Builder(log)
    if builder is None:
        raise UnsupportedError("TensorRT has no builder here", hint=brief(" ".join(log.errors), 200))
    network = _parse(module, builder, onnx_path, log)
    inputs, outputs = _signature(network)
    config = _configure(module, builder, compute_capabilities)
    plan = builder.build_serialized_network(network, config)
    precision = _precision(module, network)
    if plan is None:
        raise _refusal(onnx_path, precision, compute_capabilities, log.errors)
    with output_file(out, force=force) as work:
        work.write_bytes(bytes(memoryview(plan)))
    made_by = MadeBy(
        stage="build",
        settings={"compute_capabilities": list(compute_capabilities), "tf32": False},
        parent=model_digest(onnx_path),
        tools={module.__name__.replace("_", "-"): str(module.__version__)},
    )
    return Artifact.of(out, kind="engine", precision=precision, inputs=inputs, outputs=outputs, made_by=made_by)


def listener(module: Any) -> Any:
    """A logger for TensorRT that keeps its errors in ``errors`` and sends everything to `logging` as DEBUG."""

    class Listener(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            logger.debug("%s", message)

    return Listener()


def parser_problem(error: Any) -> str:
    """One parser error in words: its description alone often is a bare condition, so node and operator too."""
    code = str(error.code()).rpartition(".")[2]
    if not error.node_operator():
        return f"{code}: {error.desc()}"
    node = f"'{error.node_name()}'" if error.node_name() else f"number {error.node()}"
    return f"{code} at node {node} ({error.node_operator()}): {error.desc()}"


def _check_targets(module: Any, wanted: Iterable[str]) -> None:
    can = targets(module)
    for capability in wanted:
        if can and capability not in can:
            raise UnsupportedError(
                f"{module.__name__} {module.__version__} cannot build for compute capability {capability}",
                hint=f"it builds for {', '.join(can)}; the classic tensorrt builds on the device itself",
            )


def _parse(module: Any, builder: Any, onnx_path: Path, log: Any) -> Any:
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = module.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx_path)):
        return network
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reason = "; ".join(parser_problem(error) for error in errors) or " ".join(log.errors)
    if any(str(error.code()).endswith(UNREADABLE) for error in errors):
        raise UserError(f"'{onnx_path}' is not a readable ONNX file: {brief(reason)}")
    hint = ""
    if "DequantizeLinear" in reason:
        hint = "TensorRT takes symmetric int8 Q/DQ pairs without quantized biases: quantize with --for tensorrt"
    raise StageError("tensorrt parsing", onnx_path.name, brief(reason, 1200), hint=hint)


def _configure(module: Any, builder: Any, compute_capabilities: tuple[str, ...]) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if compute_capabilities and targets(module):
        config.num_compute_capabilities = len(compute_capabilities)
        for index, capability in enumerate(compute_capabilities):
            config.set_compute_capability(getattr(module.ComputeCapability, f"SM{capability}"), index)
    return config


def _refusal(onnx_path: Path, precision: str, compute_capabilities: tuple[str, ...], errors: list[str]) -> StageError:
    hint = ""
    if "75" in compute_capabilities and precision == "fp32":
        hint = "compute capability 75 has no FP32 matrix kernels in TensorRT-RTX: build it from the FP16 file"
    reason = brief(" ".join(errors), 1200) or "the builder gave no engine and no reason"
    return StageError("tensorrt building", onnx_path.name, reason, hint=hint)


def _signature(network: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs = tuple(tensor_spec(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(tensor_spec(network.get_output(index)) for index in range(network.num_outputs))
    for spec in inputs:
        if -1 in spec.shape:
            raise UserError(
                f"input '{spec.name}' has shape {list(spec.shape)}, but an engine is built for fixed sizes",
                hint="export the model with a fixed batch",
            )
    return inputs, outputs


def tensor_spec(tensor: Any) -> TensorSpec:
    """The spec of a network tensor."""
    return TensorSpec(tensor.name, dtype_name(tensor.dtype), tuple(int(size) for size in tensor.shape))


def dtype_name(dtype: Any) -> str:
    """NumPy's name for a TensorRT data type.

    Raises:
        UnsupportedError: NumPy has no such type (fp8, int4, bf16).
    """
    name = str(dtype).rpartition(".")[2]
    if name not in _DTYPES:
        raise UnsupportedError(f"TensorRT type {name} has no NumPy counterpart", hint="keep inputs in float32")
    return _DTYPES[name]


def _precision(module: Any, network: Any) -> str:
    """The lowest precision in the network: int8 if it quantizes, fp16 if it holds half tensors."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    if any(layer.type == module.LayerType.QUANTIZE for layer in layers):
        return "int8"
    outputs = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    return "fp16" if any(tensor.dtype == module.DataType.HALF for tensor in outputs) else "fp32"
