"""Which images a command works on: what the user named, or the scenes that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.shipped import shipped_folder
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from mscsa_deploy.imaging.dataset import Dataset

SHIPPED_SETS = ("calibration", "validation", "evaluation")


def shipped_set(name: str) -> Path:
    """The manifest of a shipped scene set: ``calibration``, ``validation`` or ``evaluation``."""
    assert name in SHIPPED_SETS, name
    return shipped_folder("calibration") / "scenes" / f"{name}.toml"


def open_images(place: str | Path, task: str) -> Dataset:
    """The images at `place`: a folder, a CSV list, a scene-set manifest, or the bare name of a shipped set.

    Raises:
        UserError: There is nothing at `place`, or nothing readable in it.
    """
    from mscsa_deploy.imaging.dataset import open_dataset

    path = shipped_set(str(place)) if str(place) in SHIPPED_SETS and not Path(place).exists() else Path(place)
    if not path.exists():
        raise UserError(
            f"there are no images at '{place}'",
            hint=f"name a folder, a CSV list, or a shipped set ({', '.join(SHIPPED_SETS)})",
        )
    return open_dataset(path, task)
