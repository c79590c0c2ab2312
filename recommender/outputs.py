"""The outputs of a model: their names, and values for each in the structure that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from recommender.errors import RequestError
from recommender.examples import Examples


@dataclass(frozen=True, eq=False)
class Outputs:
    """Which outputs there are.

    Attributes:
        names: What Keras calls them, in their flattened order.
        structure: Their structure (one leaf, a list, a dict, ...) with each one's position in it.
    """

    names: tuple[str, ...]
    structure: Any

    def packed(self, values: Sequence[Any]) -> Any:
        """One value per output, in their structure."""
        return keras.tree.map_structure(lambda position: values[position], self.structure)

    def each(self, values: Any, argument: str, *, gaps: bool = True) -> list[Any]:
        """What the caller says of each output, in the order of names.

        Args:
            values: None, one value for all, a list in order, a dict by name, or the outputs'
                structure.
            argument: Its name, for messages.
            gaps: Whether outputs may be left out of a dict.

        Raises:
            RequestError: Number or names are not those of the outputs.
        """
        if isinstance(values, Mapping) and "class_name" not in values:  # else a loss as Keras saves
            return self._by_name(values, argument, gaps)
        if isinstance(values, (list, tuple)):
            flat = keras.tree.flatten(values)
            if len(flat) != len(self.names):
                raise RequestError(
                    f"{argument} holds {len(flat)} entries, the model has {self}. Give one for "
                    "each, in this order or as a dict by name.",
                    code="outputs_mismatch",
                )
            return list(flat)
        return [values] * len(self.names)

    def _by_name(self, values: Mapping[str, Any], argument: str, gaps: bool) -> list[Any]:
        unknown = [repr(key) for key in values if key not in self.names]
        missing = [repr(name) for name in self.names if name not in values]
        if unknown or (missing and not gaps):
            wrong = ", ".join(unknown) or f"nothing for {', '.join(missing)}"
            raise RequestError(
                f"{argument} names {wrong}; the model has {self}.", code="outputs_mismatch"
            )
        return [values.get(name) for name in self.names]

    def arranged(self, examples: Examples, needed: Sequence[bool], suffix: str = "") -> Examples:
        """The examples with targets and weights in the outputs' structure.

        Args:
            examples: Their targets and weights may be lists or dicts by name; a single weight
                counts for all outputs.
            needed: Whether each output has a loss and so needs targets; others get stand-ins.
            suffix: What is put after y and sample_weight in messages.

        Raises:
            RequestError: Number or names are not those of the outputs.
        """
        y, name = examples.y, f"y{suffix}"
        if len(self.names) > 1 and not isinstance(y, (Mapping, list, tuple)):
            raise RequestError(
                f"{name} is one array, the model has {self}. Give a list in this order or a dict "
                "by name.",
                code="outputs_mismatch",
            )
        targets = self.each(y, name, gaps=not all(needed))
        absent = [n for n, t, need in zip(self.names, targets, needed, strict=True)
                  if need and t is None]  # fmt: skip
        if absent:
            raise RequestError(
                f"{name} holds nothing for {absent[0]!r}, which has a loss; the model has {self}.",
                code="outputs_mismatch",
            )
        stand_in = np.zeros((examples.rows, 1), np.float32)
        y = self.packed([stand_in if target is None else target for target in targets])
        weight = examples.weight
        if weight is not None:
            ones = np.ones(examples.rows, np.float32)
            weights = self.each(weight, f"sample_weight{suffix}")
            weight = self.packed([ones if w is None else w for w in weights])
        return Examples(examples.x, y, weight)

    def __str__(self) -> str:
        """How many, and their names."""
        count = len(self.names)
        named = ", ".join(repr(name) for name in self.names)
        return f"{count} output{'' if count == 1 else 's'} ({named})"


def outputs_of(model: keras.Model, predictions: Any) -> Outputs:
    """The outputs of a model.

    Args:
        model: Knows their names where it is made of layers.
        predictions: What it returned.
    """
    count = len(keras.tree.flatten(predictions))
    structure = keras.tree.pack_sequence_as(predictions, list(range(count)))
    known = getattr(model, "output_names", None) or ()
    if isinstance(predictions, Mapping) and len(predictions) == count:
        names = {position: str(key) for key, position in structure.items()}
        return Outputs(tuple(names[i] for i in range(count)), structure)
    if len(set(known)) != count:  # the outputs of a model inside a model share its name
        known = [f"output_{i}" for i in range(count)]
    return Outputs(tuple(known), structure)
