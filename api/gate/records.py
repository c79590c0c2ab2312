"""What the gate says of an upload: the facts, or that it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]  # where a value stands in a config


class Refused(Exception):
    """An upload that the gate does not let in.

    Attributes:
        code: Stable identifier, such as `"model_class_not_allowed"`.
        detail: What was received, what is allowed, what to do; shows little of the upload.
        pointer: JSON pointer into the config, where one place is to blame.
    """

    def __init__(self, code: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.pointer = pointer


@dataclass(frozen=True)
class LossFacts:
    """The loss that an uploaded model was compiled with.

    Attributes:
        name: Keras' name of it, such as `"sparse_categorical_crossentropy"`.
        from_logits: Whether it expects logits instead of probabilities.
    """

    name: str
    from_logits: bool


@dataclass(frozen=True)
class ModelFacts:
    """What the gate learned of a model, and what is kept of it.

    Attributes:
        name: The model's own name, at most 120 characters.
        layers: How many layers of each class, models inside it opened, inputs not counted.
        input_shape: Of one example of the only input; None with several inputs or none stated.
        output_units: Width of the last layer, None where the config does not say.
        loss: The loss, None unless it is one of Keras' own with its usual settings.
        config: The config that Keras rebuilds the model from, weights drawn afresh: "module",
            "class_name", "config" and "registered_name", cleared of compiled and built state.
    """

    name: str
    layers: dict[str, int]
    input_shape: tuple[int | None, ...] | None
    output_units: int | None
    loss: LossFacts | None
    config: dict[str, Any]


@dataclass(frozen=True)
class ArrayFacts:
    """What the header of an array says.

    Attributes:
        shape: Length of each axis, examples first.
        dtype: NumPy's name, such as `"float32"`.
        nbytes: Size unpacked.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
