"""What runs in the simplifier's own process: ``python -m mscsa_deploy.export.simplify_process IN OUT``."""

from __future__ import annotations

import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    """Write the ONNX file `source`, simplified by onnxsim, to `target`."""
    # onnxsim imports torch where it is installed, which takes longer than its work, and needs it for nothing here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import onnx
    import onnxsim

    # The caller compares numbers itself, on inputs of its own.
    simplified, _ = onnxsim.simplify(onnx.load(source), check_n=0)
    onnx.save(simplified, target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
