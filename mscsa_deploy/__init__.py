"""From a trained vision checkpoint to a fast, verified INT8 model on the device where it will run."""

__version__ = "0.1.0"
