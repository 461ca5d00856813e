"""Score weights on the parts of a composed set with plain PyTorch, full-size class maps against exact masks.

python examples/training/evaluate.py export/weights/topformer_t_mscsa.seg.safetensors
python examples/training/evaluate.py teacher-run/state.pt --scenes calibration/scenes/validation.toml
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from teacher import STAGES, Teacher
from torch import nn
from torch.nn import functional

from mscsa_deploy.imaging.preprocess import Preprocess, default_preprocess, preprocess
from mscsa_deploy.imaging.scenes import SceneDataset, open_scenes
from mscsa_deploy.models.checkpoint import load_model_file
from mscsa_deploy.parity.metrics import ConfusionMatrix, value

SETS = Path(__file__).parents[2] / "calibration" / "scenes"


@torch.no_grad()
def class_map(model: nn.Module, image: np.ndarray, spec: Preprocess) -> np.ndarray:
    """The class ids of one picture, (H, W) uint8, at the picture's own size."""
    logits = model(torch.from_numpy(preprocess(image, spec)))
    logits = functional.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
    return logits.argmax(dim=1)[0].numpy().astype(np.uint8)


def load(path: Path, classes: int) -> nn.Module:
    """The model of a published file, or the teacher of a run's state."""
    if path.suffix != ".pt":
        return load_model_file(path)[0]
    teacher = Teacher(classes, frozen=len(STAGES))
    teacher.load_state_dict(torch.load(path, weights_only=True)["average"])
    return teacher.eval()


def score(model: nn.Module, scenes: SceneDataset, spec: Preprocess, limit: int) -> dict[str, ConfusionMatrix]:
    """Confusion per part of the set, over the first `limit` scenes."""
    assert scenes.labels is not None
    matrices: dict[str, ConfusionMatrix] = {}
    for index in range(min(limit, len(scenes))):
        image, mask = scenes.load(index)
        part = matrices.setdefault(scenes.part_of(index), ConfusionMatrix(len(scenes.labels)))
        part.add(mask, class_map(model, image, spec))
    return matrices


def main() -> None:
    """Print mean IoU, pixel accuracy and IoU per class of each part, as JSON with --json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path, help="a published file, or the state of the teacher's run")
    parser.add_argument("--scenes", type=Path, default=SETS / "evaluation.toml")
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="only the first N scenes")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scenes = open_scenes(arguments.scenes)
    model = load(arguments.weights, len(scenes.labels or ()))
    spec = default_preprocess("seg", (arguments.size, arguments.size))
    results = {}
    for part, matrix in score(model, scenes, spec, arguments.limit).items():
        per_class = dict(zip(scenes.labels or (), matrix.class_iou().round(1).tolist(), strict=True))
        results[part] = {
            "images": matrix.images,
            "miou": round(value(matrix.mean_iou()), 2),
            "pixel_accuracy": round(value(matrix.pixel_accuracy()), 2),
            "class_iou": per_class,
        }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for part, numbers in results.items():
        print(f"{part}: mIoU {numbers['miou']}, pixel accuracy {numbers['pixel_accuracy']}, {numbers['images']} images")
        print("  " + ", ".join(f"{label} {iou}" for label, iou in numbers["class_iou"].items()))


if __name__ == "__main__":
    main()
