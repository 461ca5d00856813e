"""The HTTP front of a runner: Open Inference Protocol v2, pictures straight in, answers out."""
