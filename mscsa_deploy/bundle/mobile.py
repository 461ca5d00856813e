"""What a phone app needs beside the ONNX file: the .ort format, and which accelerator would take the model.

Both use the tools inside the onnxruntime package, each in a process of its own. They read the model with onnx, so
`pip install onnx` is needed as well; whoever only runs bundles needs neither.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import StageError, UnsupportedError

Style = Literal["Fixed", "Runtime"]
Suited = Literal["yes", "maybe", "no"]

UNCHECKED = ("XNNPACK", "QNN")
"""Execution providers of phones on which ONNX Runtime's checker says nothing."""

_TIMEOUT_S = 600
_CHECKING = re.compile(r"^INFO:\s+Checking (?!.* for usability)(.+)$", re.MULTILINE)
_NODES = re.compile(r"(\d+) partitions? with a total of (\d+)/(\d+) nodes")
_SIZES = re.compile(r"Partition sizes: \[([\d, ]*)\]")
_BLOCKERS = re.compile(r"Unsupported ops: (.+)")
_DYNAMIC = re.compile(r"Unsupported nodes due to input having a dynamic shape=(\d+)")
_ADVICE = re.compile(r"^INFO:\s+(\S.*? is (?:not )?(?:recommended|suited|expected|considered).*)$", re.MULTILINE)
_VERDICT = re.compile(r"should perform well with .+ as is: (YES|MAYBE|NO)")


@dataclass(frozen=True, slots=True)
class OrtFile:
    """A model in ONNX Runtime's own format, compared with the ONNX file it came from.

    Args:
        path: The .ort file.
        config: The operators and types it needs, for a reduced build of ONNX Runtime.
        size_bytes: Of the .ort file.
        style: ``Fixed``: optimized now; ``Runtime``: optimized in part on the phone.
        max_abs: Largest difference between both files' outputs on the same input; 0 is identical.
        max_abs_over_range: The same over the range of the ONNX file's output.
    """

    path: Path
    config: Path
    size_bytes: int
    style: Style
    max_abs: float
    max_abs_over_range: float


@dataclass(frozen=True, slots=True)
class MobileVerdict:
    """What ONNX Runtime's checker says about one execution provider of phones.

    Args:
        provider: As the checker calls it, e.g. ``NNAPI``.
        suited: Whether it thinks that the provider helps.
        nodes: Nodes of the model.
        supported: Those which the provider takes.
        partitions: Nodes in each piece that the provider takes; between them the CPU works.
        unsupported: Operators it lacks, with their domain.
        dynamic_nodes: Nodes it refuses because a shape depends on data.
        blocker: The first node in execution order with an operator it lacks, as ``name (operator)``.
        advice: The checker's own sentence, if it gives one.
    """

    provider: str
    suited: Suited
    nodes: int
    supported: int
    partitions: tuple[int, ...]
    unsupported: tuple[str, ...]
    dynamic_nodes: int
    blocker: str
    advice: str


def convert_to_ort(
    model: Path,
    directory: Path,
    feed: Mapping[str, Array],
    *,
    style: Style = "Fixed",
    target: Literal["arm", "amd64"] = "arm",
) -> OrtFile:
    """Write ``<model>.ort`` and its operators file into `directory`, and compare it with `model`.

    Args:
        model: An ONNX file.
        directory: Where the two files go.
        feed: An input to compare the outputs on.
        style: See `OrtFile`.
        target: Processor to optimize for; what is written runs on every one.

    Raises:
        UnsupportedError: onnxruntime or onnx is not installed.
        StageError: ONNX Runtime's converter failed.
    """
    _need_tools()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as work:
        source, made = Path(work) / model.name, Path(work) / "made"
        source.symlink_to(model.resolve())
        switches = ("--optimization_style", style, "--target_platform", target, "--enable_type_reduction")
        _run_tool("convert_onnx_models_to_ort", str(source), "--output_dir", str(made), *switches, subject=model)
        # The file for full optimization lies beside the other one, and the names of both depend on the style.
        ort = sorted(made.glob("*.with_runtime_opt.ort") if style == "Runtime" else made.glob("*.ort"))
        needed = sorted(made.glob("*.config"))
        if not ort or not needed:
            raise StageError("conversion to .ort", str(model), "the converter left out a file")
        path = ort[0].replace(directory / f"{model.stem}.ort")
        config = needed[0].replace(directory / f"{model.stem}.required_operators_and_types.config")
    expected, found_values = (_answer(place, feed) for place in (model, path))
    difference = float(np.abs(found_values - expected).max())
    return OrtFile(
        path=path,
        config=config,
        size_bytes=path.stat().st_size,
        style=style,
        max_abs=difference,
        max_abs_over_range=difference / (float(np.ptp(expected)) or 1.0),
    )


def check_mobile(model: Path) -> tuple[MobileVerdict, ...]:
    """What ONNX Runtime's usability checker says of `model`, one verdict per execution provider that it knows.

    Raises:
        UnsupportedError: onnxruntime or onnx is not installed.
        StageError: The checker failed, or its text was not understood.
    """
    from mscsa_deploy.graphs.nodes import first_node

    _need_tools()
    text = _run_tool("check_onnx_model_mobile_usability", "--log_level", "info", str(model), subject=model)
    verdicts = []
    for verdict in parse_usability(text):
        found = first_node(model, {name.rpartition(":")[2] for name in verdict.unsupported})
        verdicts.append(replace(verdict, blocker="" if found is None else f"{found[0]} ({found[1]})"))
    return tuple(verdicts)


def parse_usability(text: str) -> tuple[MobileVerdict, ...]:
    """The verdicts in the checker's text, without `MobileVerdict.blocker`, which the text does not tell.

    Raises:
        StageError: There is none, or a part of one is missing.
    """
    starts = list(_CHECKING.finditer(text))
    if not starts:
        raise StageError("mobile check", "the checker's text", "it names no execution provider")
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return tuple(_parse(start[1].strip(), text[start.end() : end]) for start, end in zip(starts, ends, strict=True))


def _parse(provider: str, part: str) -> MobileVerdict:
    nodes, verdict = _NODES.search(part), _VERDICT.search(part)
    if nodes is None or verdict is None:
        raise StageError("mobile check", provider, "the checker's text has no node counts or no verdict")
    sizes, lacks, dynamic, advice = (pattern.search(part) for pattern in (_SIZES, _BLOCKERS, _DYNAMIC, _ADVICE))
    suited: dict[str, Suited] = {"YES": "yes", "MAYBE": "maybe", "NO": "no"}
    return MobileVerdict(
        provider=provider,
        suited=suited[verdict[1]],
        nodes=int(nodes[3]),
        supported=int(nodes[2]),
        partitions=tuple(int(size) for size in sizes[1].split(",") if size.strip()) if sizes else (),
        unsupported=tuple(name.strip() for name in lacks[1].split(",")) if lacks else (),
        dynamic_nodes=int(dynamic[1]) if dynamic else 0,
        blocker="",
        advice=advice[1] if advice else "",
    )


def _need_tools() -> None:
    for name in ("onnxruntime", "onnx"):
        if find_spec(name) is None:
            raise UnsupportedError(f"mobile formats need the package {name}", hint=f"pip install {name}")


def _run_tool(name: str, *arguments: str, subject: Path) -> str:
    command = [sys.executable, "-m", f"onnxruntime.tools.{name}", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and package
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(name, str(subject), f"it did not end within {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise StageError(name, str(subject), lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout + done.stderr


def _answer(path: Path, feed: Mapping[str, Array]) -> Array:
    """The first output for `feed`, as float64."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # The runtime's adapter loads what bundles hold, and .ort files are made from a bundle, not in it.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, dict(feed))[0]
    return output.astype(np.float64)
