"""Where this package comes from, in words for whoever does not have it: no package index holds it.

Whoever has it needs none of this for a further part: ``pip install 'mscsa-deploy[openvino]'`` then finds the package
itself installed, and fetches only what the extra asks for.
"""

from __future__ import annotations

from mscsa_deploy import __version__

SOURCE = "mscsa-deploy is on no package index: take a checkout of it, or the wheel that whoever made the bundle has"
NEWER = "install a newer mscsa-deploy, from its checkout or from the wheel that whoever made the bundle has"


def commands(*extras: str) -> tuple[str, str]:
    """The lines that install the package with `extras`: in a checkout, and from a wheel of this version."""
    named = ",".join(extras)
    return f"pip install '.[{named}]'", f"pip install './mscsa_deploy-{__version__}-py3-none-any.whl[{named}]'"
