"""Rules that see weights and gradients; one file per rule, one public class per file.

A rule subclasses `keras_gradopt.optimizer.Optimizer` and defines `update`, its `slots` where it
keeps state, and `measure` where it needs a number over all variables. The registry, saving, the
contract tests, the catalogue and the recommender find it by itself.
"""

from __future__ import annotations

from keras_gradopt.optimizer import Optimizer

__all__ = ["Optimizer"]
