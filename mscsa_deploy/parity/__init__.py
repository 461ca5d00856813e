"""Numeric parity, task metrics and their uncertainty, and the search for the first diverging node."""
