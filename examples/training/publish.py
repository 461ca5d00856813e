"""Write the averaged weights of a run as the safetensors file that ships.

python examples/training/publish.py --work training-run --output export/weights/topformer_t_mscsa.seg.safetensors
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import torch

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.imaging.manifest import read_assets
from mscsa_deploy.imaging.preprocess import default_preprocess
from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint
from mscsa_deploy.models.spec import ModelOptions, build_model

ASSETS = Path(__file__).parents[2] / "calibration" / "scenes" / "assets.toml"
SIZE = 512


def main() -> None:
    """Convert the last checkpoint of the run in --work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    parser.add_argument("--work", type=Path, required=True, help="the run's folder")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the asset manifest it was trained on")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    name = tomllib.loads(arguments.recipe.read_text())["model"]
    labels = read_assets(arguments.assets).labels
    options = ModelOptions(num_classes=len(labels))
    model = build_model(name, "seg", options)
    state = torch.load(arguments.work / "state.pt", weights_only=True)
    model.load_state_dict(state["average"])
    metadata = {
        **model_metadata(name, "seg", options),
        "mscsa_deploy.preprocess": json.dumps(to_plain(default_preprocess("seg", (SIZE, SIZE)))),
        "mscsa_deploy.labels": json.dumps(labels),
        "mscsa_deploy.input_size": f"{SIZE}x{SIZE}",
    }
    save_checkpoint(arguments.output, model, metadata, half=True, force=True)
    print(f"stage {state['stage']} step {state['step']}, {state['seconds'] / 60:.1f} min: {arguments.output}")


if __name__ == "__main__":
    main()
