"""The networks: MSCSA, TopFormer and PVTv2, what they cost, and how checkpoints are fitted to them."""
