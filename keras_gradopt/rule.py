"""Rule: what a method declares, and its whole step as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt import backend
from keras_gradopt import groups as parameter_groups
from keras_gradopt.arguments import Arguments, Hyperparameters, is_number, value_at
from keras_gradopt.kernel import Kernel
from keras_gradopt.ranges import LEARNING_RATE, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import is_double
from keras_gradopt.transforms import CommonFactor, Transform

Tensor = Any
Variable = Any
# The shared slot that is 1 while the model holds the weights for evaluation.
EVALUATING = "evaluating"


class Rule(Arguments):
    """The half of an optimizer that knows no Keras variable: declarations, and a pure step.

    `keras_gradopt.Optimizer` is the other half, which keeps the state and meets Keras.
    """

    # What a rule needs beyond gradients; the word that `bind`, tests and the recommender read.
    needs: str = "gradient"
    # True for rules whose coordinates move alone, and whose `measure` asks no variable apart from
    # the others: the engine may pack their variables.
    elementwise: ClassVar[bool] = False
    # Whether XLA is good at the rule's arithmetic: `jit_compile="auto"` compiles it by itself on
    # TensorFlow. None is what the rule's `elementwise` says.
    compiles: ClassVar[bool | None] = None
    # True where a gradient of zero leaves a coordinate and its slots as they are, bit for bit: an
    # embedding's rows that a minibatch did not look up are then left out of the step.
    lazy: bool = False
    # True for rules that apply weight decay inside `update`, from `h.weight_decay`.
    decays_weights: ClassVar[bool] = False
    # True for rules that find their own step size, where the rate is a factor of it, usually 1.
    finds_its_rate: ClassVar[bool] = False
    # True for rules that train one set of weights and are judged by another, an average of it:
    # they define `evaluation_weights` and `training_weights`.
    averages_weights: bool = False
    # Whether half-precision weights get a companion that holds the digits they drop.
    keeps_lost_digits: ClassVar[bool] = True
    # Gradients of the loss that one step evaluates, the one Keras hands over included.
    gradient_evaluations_per_step: float = 1.0
    # True for rules that draw random numbers, which each backend makes in a way of its own.
    draws: ClassVar[bool] = False
    # True for rules made for all data, or a large part of it, as one minibatch.
    wants_whole_data: ClassVar[bool] = False
    # Common arguments that the rule does not take, and what to do instead.
    refused: ClassVar[dict[str, str]] = {}
    ranges: ClassVar[dict[str, Range]] = {
        "learning_rate": LEARNING_RATE,
        "weight_decay": NON_NEGATIVE,
    }

    # What the other half of the optimizer stores.
    weight_decay: Any
    jit_compile: bool | str
    gradient_transforms: tuple[Transform, ...]
    _clipping: tuple[Transform, ...]

    # ------------------------------------------------------------------ what a rule declares

    def dearest_step(self) -> float:
        """Gradients of the loss that one step evaluates at most, once the state is built.

        Rules whose steps differ in length define it; all others take the same number each time.
        """
        return self.gradient_evaluations_per_step

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """State per variable, for one of the given shape."""
        del shape
        return ()

    def slots_for(self, variable: Variable) -> Sequence[Slot]:
        """State beside one variable, where its path decides as well; else that of its shape."""
        return self.slots(tuple(variable.shape))

    def shared_slots(self) -> Sequence[Slot]:
        """State kept once for all variables."""
        return ()

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Numbers over all variables, found before any of them moves.

        Args:
            ws: Weights.
            gs: Gradients, of the weights' shapes.
            slots: Per variable, its slots.
            shared: The shared slots, by name.
            h: Hyper-parameters of this step.

        Returns:
            The numbers by name, and the new shared slots. `update` finds both in `h`.
        """
        del ws, gs, slots, h
        return {}, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """The rule for one variable: new weights and new slots from old ones."""
        raise NotImplementedError(
            f"{type(self).__name__} must define update(self, w, g, *slots, h)."
        )

    def kernel(self, h: Hyperparameters) -> Kernel | None:
        """The same rule among those that frameworks have as one fused kernel, if it is there."""
        del h
        return None

    def evaluation_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """The weights to evaluate and save, and the slots beside them; training pauses.

        Args:
            w: Weights in training.
            *slots: Their slots.

        Returns:
            `(w, *slots)`, from which `training_weights` finds its way back.
        """
        return (w, *slots)

    def training_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """The inverse of `evaluation_weights`: the weights at which gradients are taken."""
        return (w, *slots)

    @classmethod
    def example(cls, **base_arguments: Any) -> Rule:
        """An instance with default arguments: what tests and the catalogue look at."""
        return cls(**base_arguments)

    # ------------------------------------------------------------------ the pure step

    def hyperparameters(self, step: Any, **overrides: Any) -> Hyperparameters:
        """The hyper-parameters of one step.

        Args:
            step: Number of this update, 1 for the first; an int or a tensor.
            **overrides: Values to take instead of the constructor's: numbers or traced inputs.
        """
        count = step - 1
        values = {} if "learning_rate" in overrides else self._learning_rate_at(count)
        for name in self.hyperparameter_names:
            if name not in overrides and name != "learning_rate":
                values[name] = value_at(getattr(self, name), count)
        values.update(overrides)
        if not is_number(step):
            step = ops.cast(step, "float32")
        return Hyperparameters(step=step, numbers={}, shared={}, **values)

    def _learning_rate_at(self, count: Any) -> dict[str, Any]:
        """The rate after `count` steps, which the other half keeps."""
        raise NotImplementedError

    def initial_slots(self, ws: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """First values of all slots beside weights of these values."""
        return [tuple(slot.start(w) for slot in self.slots(tuple(w.shape))) for w in ws]

    def initial_shared(self, ws: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """First values of the shared slots, by name."""
        del ws
        return {name: slot.start(None) for name, slot in self._all_shared_slots().items()}

    def _all_shared_slots(self) -> dict[str, Slot]:
        named = {slot.name: slot for slot in self.shared_slots()}
        if self.averages_weights:
            named[EVALUATING] = Slot(EVALUATING, shape=())
        for position, transform in enumerate(self.all_transforms()):
            for slot in transform.shared_slots():
                named[f"transform_{position}_{slot.name}"] = slot
        return named

    def all_transforms(self) -> tuple[Transform, ...]:
        """The transforms of the gradients, those of Keras' clipping arguments last."""
        return (*self.gradient_transforms, *self._clipping)

    def transition(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
        members: Sequence[parameter_groups.Group] | None = None,
        *,
        donate: bool = False,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """One whole step as a pure function: transforms, `measure`, weight decay, `update`.

        Args:
            ws: Weights, float32.
            gs: Gradients, float32, of the weights' shapes.
            slots: Per variable, its slots, as `initial_slots` gives them.
            shared: Shared slots, as `initial_shared` gives them.
            h: From `hyperparameters`.
            members: Per variable, its group; None is that all are treated alike.
            donate: Whether weights and slots may be overwritten, and the new ones lie in them.

        Returns:
            New weights, slots and shared slots, of the same shapes.
        """
        if members is None:
            members = [parameter_groups.PLAIN] * len(ws)
        moving = [i for i, member in enumerate(members) if not member.frozen]
        if len(moving) < len(ws):
            return self._transition_of(moving, ws, gs, slots, shared, h, members, donate=donate)
        if ws and all(is_double(w) for w in ws):
            h = h.cast("float64")
            shared = {name: ops.cast(value, "float64") for name, value in shared.items()}
        h = h.replace(transforms=[t.resolve(h.step - 1) for t in self.all_transforms()])
        return backend.arithmetic(self, ws, gs, slots, shared, h, members, donate=donate)

    def arithmetic(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
        members: Sequence[parameter_groups.Group],
        factor: Tensor | None = None,
        *,
        transformed: bool = False,
        donate: bool = False,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """What of `transition` is arithmetic on given numbers, which a backend may pack or compile.

        Args:
            ws: Weights.
            gs: Gradients.
            slots: Per variable, its slots.
            shared: Shared slots.
            h: Hyper-parameters, those of the transforms in `h.transforms`.
            members: Per variable, its group.
            factor: What all gradients are multiplied by still; None is 1.
            transformed: Whether the gradients went through the transforms already.
            donate: Whether weights and slots may be overwritten.
        """
        if not transformed:
            gs, factor, shared = self.transformed(gs, ws, shared, h)
        numbers, shared = self.measure(ws, gs, slots, shared, h)
        h = h.replace(numbers=numbers, shared=shared, transforms=())
        ws, slots = backend.run(self, ws, gs, slots, h, members, factor, donate=donate)
        return ws, slots, shared

    def _transition_of(
        self,
        moving: Sequence[int],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
        members: Sequence[parameter_groups.Group],
        *,
        donate: bool,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The step of some variables; the others count nowhere, not even in a norm."""
        ws, slots = list(ws), list(slots)
        if moving:
            moved, kept, shared = self.transition(
                [ws[i] for i in moving],
                [gs[i] for i in moving],
                [slots[i] for i in moving],
                shared,
                h,
                [members[i] for i in moving],
                donate=donate,
            )
            for i, w, own in zip(moving, moved, kept, strict=True):
                ws[i], slots[i] = w, own
        return ws, slots, shared

    def transformed(
        self, gs: list[Tensor], ws: list[Tensor], shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[list[Tensor], Tensor | None, dict[str, Tensor]]:
        """Gradients after all transforms, but for a common factor that is left to the engine."""
        shared = dict(shared)
        factor = None
        # Nobody but `update` sees the gradients after the last transform.
        leaves_factor = type(self).measure is Rule.measure
        transforms = self.all_transforms()
        for position, transform in enumerate(transforms):
            names = {s.name: f"transform_{position}_{s.name}" for s in transform.shared_slots()}
            own = {short: shared[full] for short, full in names.items()}
            values = Hyperparameters(step=h.step, **h.transforms[position])
            is_last = position == len(transforms) - 1
            if is_last and leaves_factor and isinstance(transform, CommonFactor):
                factor, own = transform.factor(gs, own, values)
            else:
                gs, own = transform.apply(gs, ws, own, values)
            shared.update({names[short]: value for short, value in own.items()})
        return gs, factor, shared

    def move(
        self,
        w: Tensor,
        g: Tensor,
        *slots: Tensor,
        h: Hyperparameters,
        member: parameter_groups.Group,
    ) -> tuple:
        """Weight decay, then the rule, for one variable or for several packed into one vector."""
        before, weight_decay = w, getattr(h, "weight_decay", None)
        if weight_decay is not None and member.weight_decay != 1.0:
            weight_decay = weight_decay * member.weight_decay if member.weight_decay else None
        if self.averages_weights:
            # What the weights and the average share must move alike, so the rate itself is scaled.
            h = h.replace(learning_rate=h.learning_rate * member.learning_rate)
        if self.decays_weights:
            h = h.replace(weight_decay=0.0 if weight_decay is None else weight_decay)
        elif weight_decay is not None:
            w = w - w * (weight_decay * h.learning_rate)
        w, *kept = self.update(w, g, *slots, h=h)
        if member.learning_rate != 1.0 and not self.averages_weights:
            w = before + member.learning_rate * (w - before)
        return (w, *kept)
