"""The segmentation tail: upsampling and argmax as equivalent sub-graphs, one chosen by measuring."""
