"""Words and limits that mean the same in recipes, files, bundles and on the command line."""

from __future__ import annotations

from typing import Literal

from mscsa_deploy.errors import unknown_name

Task = Literal["cls", "seg"]
"""One class per picture, or one class per pixel."""
TASKS: tuple[Task, ...] = ("cls", "seg")


def task_named(text: str) -> Task:
    """The task that `text`, of a file or a caller, names.

    Raises:
        UserError: There is no such task.
    """
    for task in TASKS:
        if text == task:
            return task
    raise unknown_name("task", text, TASKS)


MOST_THREADS = 1024
"""Threads, workers, streams: more than any machine has cores would cost memory for nothing."""

Output = Literal["logits", "logits-full", "classmap", "probs"]
"""Where a graph ends: values per class (for segmentation at the model's stride), those at input size, the winning
class per pixel, or the softmax."""
OUTPUTS: tuple[Output, ...] = ("logits", "logits-full", "classmap", "probs")

Stored = Literal["fp32", "fp16", "int8"]
"""What a file's weights are stored in."""
