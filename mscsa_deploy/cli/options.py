"""Option types and options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from mscsa_deploy.core.vocabulary import MOST_THREADS, TASKS

Command = Callable[..., Any]

PARALLEL = click.IntRange(1, MOST_THREADS)


class Quantity(click.FloatRange):
    """A finite number of at least `min`; NaN passes every comparison that click makes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of the text."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return number


class Size(click.ParamType[tuple[int, int]]):
    """``H`` or ``HxW`` in pixels."""

    name = "H[xW]"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(height, width) of the text."""
        if isinstance(value, tuple):
            return value
        numbers = value.lower().split("x")
        if not 1 <= len(numbers) <= 2 or not all(number.isdecimal() for number in numbers):
            self.fail(f"'{value}' is not a size; expected H or HxW in pixels, e.g. 512 or 512x768", param, ctx)
        return int(numbers[0]), int(numbers[-1])


class Batch(click.ParamType[int | Literal["dynamic"]]):
    """A number of images, or ``dynamic``."""

    name = "N|dynamic"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["dynamic"]:
        """The batch size of the text."""
        if value == "dynamic":
            return "dynamic"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"'{value}' is not a batch; expected a positive number or 'dynamic'", param, ctx)
        return int(value)


class Names(click.ParamType[tuple[str, ...]]):
    """Names joined by commas."""

    name = "A,B,..."

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names of the text, in order."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            self.fail("it names nothing; leave it out for all", param, ctx)
        return names


SIZE = Size()
BATCH = Batch()
NAMES = Names()
INPUT_FILE = click.Path(path_type=Path)
OUTPUT_DIRECTORY = click.Path(path_type=Path, file_okay=False)


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


output_options = stacked(
    click.option("-o", "--output-dir", "out", type=OUTPUT_DIRECTORY, required=True, help="Where the result goes."),
    click.option("--force", is_flag=True, help="Replace what stands there."),
)

checkpoint_options = stacked(
    click.option("--task", type=click.Choice(TASKS), help="Classification or segmentation."),
    click.option("--checkpoint", type=INPUT_FILE, metavar="FILE", help="Trained weights (.safetensors, .pth, .pt)."),
    click.option("--key-map", type=INPUT_FILE, metavar="FILE", help="TOML of regex renames for the weights' names."),
    click.option("--allow-partial", is_flag=True, help="Load what fits and list what does not."),
    click.option("--random-weights", type=int, metavar="SEED", help="Random weights instead; the file says so."),
    click.option("--num-classes", type=click.IntRange(min=1), help="Classes, if the head does not tell."),
    click.option("--size", type=SIZE, metavar="H[xW]", help="Input height and width; multiples of 32 from 64 to 2048."),
)

max_drop_option = click.option(
    "--max-drop",
    type=Quantity(min=0),
    metavar="POINTS",
    help="Largest accepted drop of INT8 (default 0.5 mIoU, 0.3 top-1; without labels 1 % of decisions may differ).",
)

resume_option = click.option(
    "--resume",
    is_flag=True,
    expose_value=False,
    help="Go on where an earlier run was stopped, as is done anyway.",
)

preset_option = click.option(
    "--preset",
    type=click.Choice(["smoke", "quick", "full"]),
    default="quick",
    show_default=True,
    help="How long each row is measured; smoke only shows that it runs.",
)

foreign_options = stacked(
    click.option("--preprocess", type=INPUT_FILE, metavar="FILE", help="Preprocessing (TOML) of a foreign ONNX file."),
)

runtime_option = click.option(
    "--for",
    "runtime",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt"]),
    required=True,
    help="The runtime that is to run the INT8 file.",
)

subject_options = stacked(
    click.option("--device", metavar="PROFILE", help="Device profile (default: this machine's)."),
    click.option("--threads", type=PARALLEL, help="Threads per session (default: the profile's)."),
    click.option("--task", type=click.Choice(TASKS), help="Of an ONNX file that does not say it."),
    foreign_options,
    click.option("--checkpoint", type=INPUT_FILE, metavar="FILE", help="Weights for a model of the zoo."),
    click.option("--random-weights", type=int, metavar="SEED", help="Random weights for a model of the zoo."),
)
