"""Measuring latency: statistics, plans, one worker process per row, interleaving, and the reading of it."""
