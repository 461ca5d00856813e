"""Names of the text entries in which a safetensors file of ours says what it holds."""

from __future__ import annotations

MODEL = "mscsa_deploy.model"
"""Name in the zoo."""
TASK = "mscsa_deploy.task"
OPTIONS = "mscsa_deploy.options"
"""What the architecture was built with, as JSON."""
PREPROCESS = "mscsa_deploy.preprocess"
"""How a picture becomes the input, as JSON."""
LABELS = "mscsa_deploy.labels"
"""Class names in the order of the output's channels, as JSON."""
