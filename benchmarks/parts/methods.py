"""Methods: what is compared, as ours, as Keras' own, and as an ordinary Keras optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

import keras_gradopt as kg
from keras_gradopt import backend


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        title: What tables call it.
        ours: Our class.
        keras: Keras' class of the same name; None where there is none.
        arguments: Of the rule, alike for both.
        clipping: The base class' arguments for it, alike for both.
        steps_per_call: Steps that are timed together, where not every step is alike.
    """

    title: str
    ours: type[kg.Optimizer]
    keras: type[keras.optimizers.Optimizer] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    clipping: dict[str, Any] = field(default_factory=dict)
    steps_per_call: int = 1

    def make_ours(self, **more: Any) -> kg.Optimizer:
        """Our optimizer."""
        return self.ours(**self.arguments, **self.clipping, **more)

    def make_keras(self) -> keras.optimizers.Optimizer | None:
        """Keras' own."""
        return self.keras(**self.arguments, **self.clipping) if self.keras else None

    def make_ordinary(self) -> Ordinary:
        """The same rule in an optimizer written the ordinary way."""
        return Ordinary(self.ours(**self.arguments), **self.clipping)


class Ordinary(keras.optimizers.Optimizer):
    """A rule as one would write it for Keras by hand: variable by variable, slot by slot.

    Args:
        rule: Its `update` is called; of the rest only the learning rate and the weight decay count.
        **clipping: Keras' own arguments for it.
    """

    def __init__(self, rule: kg.Optimizer, **clipping: Any) -> None:
        decay = None if rule.decays_weights else rule.weight_decay
        super().__init__(learning_rate=float(rule.learning_rate), weight_decay=decay, **clipping)
        self.rule = rule

    def build(self, variables: list) -> None:
        """Creates one Keras variable per slot."""
        if self.built:
            return
        super().build(variables)
        self.slots = [[self._slot(v, slot) for slot in self.rule.slots(v.shape)] for v in variables]

    def _slot(self, variable: Any, slot: Any) -> Any:
        if slot.shape is None and slot.initial == 0.0:
            return self.add_variable_from_reference(variable, name=slot.name)
        start = slot.start(ops.convert_to_tensor(variable))
        return self.add_variable(
            start.shape, initializer=lambda shape, dtype: start, name=slot.name
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step for one variable."""
        slots = self.slots[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        h = self.rule.hyperparameters(self.iterations + 1, learning_rate=rate)
        if self.rule.decays_weights and self.rule.weight_decay is None:
            h = h.replace(weight_decay=0.0)
        w, *kept = (ops.convert_to_tensor(x) for x in (variable, *slots))
        # An embedding's gradient is no tensor on TensorFlow.
        g = ops.cast(backend.densify(gradient), w.dtype)
        new = self.rule.update(w, g, *kept, h=h)
        for target, value in zip((variable, *slots), new, strict=True):
            self.assign(target, value)


own = keras.optimizers
METHODS: dict[str, Method] = {
    "adam": Method("Adam", kg.Adam, own.Adam),
    "adamw_clipped": Method(
        "AdamW, clipped", kg.AdamW, own.AdamW, clipping={"global_clipnorm": 1.0}
    ),
    "sgd_momentum": Method("SGD, momentum", kg.SGD, own.SGD, {"momentum": 0.9}),
    "adabelief": Method("AdaBelief", kg.AdaBelief),
    "lion": Method("Lion", kg.Lion, own.Lion),
    "adan": Method("Adan", kg.Adan),
    "lamb": Method("Lamb", kg.Lamb, own.Lamb),
    "lars": Method("LARS", kg.LARS),
    "adafactor": Method("Adafactor", kg.Adafactor, own.Adafactor),
    "muon": Method("Muon", kg.Muon, own.Muon),
    "shampoo": Method("Shampoo", kg.Shampoo, arguments={"grafting": False}),
    # Its bases are renewed at every tenth step.
    "soap": Method("SOAP", kg.SOAP, steps_per_call=10),
}
