"""Peers of the gradient-free rules that are no test dependencies, recorded."""
