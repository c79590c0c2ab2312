"""Pairs of our optimizers and implementations that nobody here wrote; see `parity.py`."""
