"""Inference libraries behind one protocol; each is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.core.registry import Registry

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.protocol import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    {
        "pytorch": "mscsa_deploy.runtimes.pytorch:PyTorch",
        "onnxruntime": "mscsa_deploy.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "mscsa_deploy.runtimes.openvino:OpenVino",
        "tensorrt": "mscsa_deploy.runtimes.tensorrt:TensorRT",
        "fake": "mscsa_deploy.runtimes.fake:Fake",
    },
)
FOR_TESTS = "fake"
OFFERED = tuple(name for name in RUNTIMES if name != FOR_TESTS)
"""What users are told of."""
