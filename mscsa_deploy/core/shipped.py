"""Where the recipes, profiles and manifests that come with the project lie.

In a wheel they are package data; in an editable install the repository's top-level folders are used.
"""

from __future__ import annotations

from pathlib import Path

from mscsa_deploy.errors import UserError, unknown_name

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = {"export": "export recipe", "runtimes": "device profile", "calibration": "calibration recipe"}
"""What the files of each folder are."""


def shipped_folder(folder: str) -> Path:
    """The directory of shipped files called `folder`: ``export``, ``runtimes`` or ``calibration``."""
    assert folder in FOLDERS, folder
    for place in (_PACKAGE / "shipped" / folder, _PACKAGE.parent / folder):
        if place.is_dir():
            return place
    raise UserError(
        f"the files of '{folder}' are missing from this installation",
        hint="reinstall with 'pip install --force-reinstall mscsa-deploy'",
    )


def shipped_file(folder: str, name: str) -> Path:
    """The shipped TOML file `name` (with or without its suffix) of `folder`.

    Raises:
        UserError: There is none of that name; the nearest one is offered.
    """
    names = shipped_names(folder)
    bare = name.removesuffix(".toml")
    if bare not in names:
        raise unknown_name(FOLDERS[folder], bare, names)
    return shipped_folder(folder) / f"{bare}.toml"


def shipped_names(folder: str) -> tuple[str, ...]:
    """Names of the shipped TOML files in `folder` without their suffix, sorted."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in shipped_folder(folder).glob("*.toml")))
