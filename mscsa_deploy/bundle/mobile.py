"""What a phone app needs beside the ONNX file: the .ort format, and which accelerator would take the model.

Both use the tools inside the onnxruntime package, each in a process of its own. They read the model with onnx, so
`pip install onnx` is needed as well; whoever only runs bundles needs neither.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from mscsa_deploy.core.phones import MadeFor, MobileVerdict
from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import StageError, UnsupportedError

UNCHECKED = ("XNNPACK", "QNN")
"""Execution providers of phones on which ONNX Runtime's checker says nothing."""

MOST_OVER_RANGE = 1e-4
"""How far, as a share of the range, answers may be from those of the FP32 file that a rewritten one was made from."""

# Optimized now, for ARM, into operators that only processors have; or no further than every provider understands, which
# changes the numbers of INT8 models.
_STYLES: Final = {"processor": "Fixed", "accelerators": "Runtime"}
_SWITCHES: Final = ("--target_platform", "arm", "--enable_type_reduction")
_NOT_ON_ARM = ("NchwcTransformer",)
"""Optimizations that ONNX Runtime does on x86 only, and which add the same numbers up in another order."""

_TIMEOUT_S = 600
_CHECKING = re.compile(r"^INFO:\s+Checking (?!.* for usability)(.+)$", re.MULTILINE)
_NODES = re.compile(r"(\d+) partitions? with a total of (\d+)/(\d+) nodes")
_SIZES = re.compile(r"Partition sizes: \[([\d, ]*)\]")
_BLOCKERS = re.compile(r"Unsupported ops: (.+)")
_DYNAMIC = re.compile(r"Unsupported nodes due to input having a dynamic shape=(\d+)")
_ADVICE = re.compile(
    r"^INFO:[ \t]+(\S.*? (?:is not recommended|can be considered|(?:should|may|will probably not) work) .*)$",
    re.MULTILINE,
)
_VERDICT = re.compile(r"should perform well with .+ as is: (YES|MAYBE|NO)")


@dataclass(frozen=True, slots=True)
class OrtFile:
    """A model in ONNX Runtime's own format that answers, bit by bit, as the ONNX file it came from.

    Args:
        path: The .ort file.
        operators: The operators and types it needs, for a reduced build of ONNX Runtime.
        size_bytes: Of the .ort file.
        max_abs_over_range: Largest difference to the ONNX file with the optimizations of this machine, or to the one
            that it was rewritten from, over the range of its output; 0 where they add up in the same order.
    """

    path: Path
    operators: Path
    size_bytes: int
    max_abs_over_range: float


def need_tools() -> None:
    """Raise `UnsupportedError` unless what the other functions use is installed."""
    for name in ("onnxruntime", "onnx"):
        if find_spec(name) is None:
            raise UnsupportedError(f"mobile formats need the package {name}", hint=f"pip install {name}")


def convert_to_ort(
    model: Path,
    directory: Path,
    feed: Mapping[str, Array],
    *,
    name: str = "",
    made_for: MadeFor = "processor",
    origin: Path | None = None,
) -> OrtFile:
    """Write ``NAME.ort`` and its operators file into `directory`, and compare it with `model`.

    Args:
        model: An ONNX file.
        directory: Where the two files go.
        feed: An input to compare the outputs on.
        name: Of the files, without suffix; the model's if empty.
        made_for: Who shall run it, which decides how far it is optimized.
        origin: The ONNX file that `model` was rewritten from, if it was.

    Raises:
        UnsupportedError: onnxruntime or onnx is not installed.
        StageError: ONNX Runtime's converter failed, or what it made answers otherwise than `model`, or is further than
            `MOST_OVER_RANGE` from `origin`.
    """
    need_tools()
    directory.mkdir(parents=True, exist_ok=True)
    name = name or model.stem
    with tempfile.TemporaryDirectory(dir=directory) as work:
        source, made = Path(work) / f"{name}.onnx", Path(work) / "made"
        source.symlink_to(model.resolve())
        switches = ("--output_dir", str(made), "--optimization_style", _STYLES[made_for], *_SWITCHES)
        _run_tool("convert_onnx_models_to_ort", str(source), *switches, subject=model)
        found, needed = sorted(made.glob("*.ort")), sorted(made.glob("*.config"))
        if not found or not needed:
            raise StageError("conversion to .ort", str(model), "the converter left out a file")
        answer = _answer(found[0], feed)
        basic = made_for == "accelerators"
        expected = _answer(model, feed, without=() if basic else _NOT_ON_ARM, basic=basic)
        if not np.array_equal(answer, expected):
            reason = f"its answer differs from that of the ONNX file by {np.abs(answer - expected).max():.1e}"
            raise StageError("conversion to .ort", str(model), reason)
        usual = _answer(origin or model, feed)
        difference = float(np.abs(answer - usual).max()) / (float(np.ptp(usual)) or 1.0)
        if origin is not None and not difference <= MOST_OVER_RANGE:
            reason = f"it is {difference:.1e} of the range away from '{origin.name}'"
            raise StageError("conversion to .ort", str(model), reason)
        path = found[0].replace(directory / f"{name}.ort")
        operators = directory / f"{name}.required_operators_and_types.config"
        operators.write_text(_without_comments(needed[0].read_text(encoding="utf-8")), encoding="utf-8")
    return OrtFile(path, operators, path.stat().st_size, difference)


def _without_comments(text: str) -> str:
    """A list of operators without the lines that tell where on this machine the model lay."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def check_mobile(model: Path) -> tuple[MobileVerdict, ...]:
    """One verdict on `model` per execution provider of phones; ``unknown`` for those that the checker lacks.

    Raises:
        UnsupportedError: onnxruntime or onnx is not installed.
        StageError: The checker failed, or its text was not understood.
    """
    from mscsa_deploy.graphs.nodes import first_node

    need_tools()
    text = _run_tool("check_onnx_model_mobile_usability", "--log_level", "info", str(model), subject=model)
    verdicts = []
    for verdict in parse_usability(text):
        found = first_node(model, {name.rpartition(":")[2] for name in verdict.unsupported})
        blocker = "" if found is None else f"{found[0]} ({found[1]})"
        verdicts.append(msgspec.structs.replace(verdict, blocker=blocker))
    unknown = [MobileVerdict(provider=name, suited="unknown") for name in UNCHECKED]
    return (*verdicts, *unknown)


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
    suited: dict[str, Literal["yes", "maybe", "no"]] = {"YES": "yes", "MAYBE": "maybe", "NO": "no"}
    return MobileVerdict(
        provider=provider,
        suited=suited[verdict[1]],
        nodes=int(nodes[3]),
        supported=int(nodes[2]),
        partitions=tuple(int(size) for size in sizes[1].split(",") if size.strip()) if sizes else (),
        unsupported=tuple(name.strip() for name in lacks[1].split(",")) if lacks else (),
        dynamic_nodes=int(dynamic[1]) if dynamic else 0,
        advice=advice[1] if advice else "",
    )


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


def _answer(path: Path, feed: Mapping[str, Array], *, without: Sequence[str] = (), basic: bool = False) -> Array:
    """The first output for `feed`, as float64; `without` some of ONNX Runtime's optimizations, or with `basic` ones."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if basic:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # The runtime's adapter loads what bundles hold, and .ort files are made from a bundle, not in it.
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
    )
    output: Array = session.run(None, dict(feed))[0]
    return output.astype(np.float64)
