"""Rules made of two others, which take turns on the same weights.

A rule here subclasses `Combination` and says which part is on turn. The parts are any two Keras
optimizers, ours or Keras' own, of any kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from keras import ops
from keras.src.utils import tracking

from keras_gradopt import backend, nested, registry
from keras_gradopt import objective as objectives
from keras_gradopt.composite import Composite
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.slot import Slot

Tensor = Any
Variable = Any


@dataclasses.dataclass(frozen=True)
class Switched:
    """One switch, as it stands in a log.

    Attributes:
        step: Steps made before it, by all parts.
        before: Name of the optimizer that stepped until then.
        after: Name of the one that steps since.
        reason: Why, as a sentence with the numbers that decided.
    """

    step: int
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"after step {self.step} {self.after} follows {self.before}: {self.reason}."


class Combination(Composite):
    """Base of optimizers made of two, of which one steps at a time.

    Both parts keep their state beside the weights. Only the part on turn computes a step, decided
    within the compiled step: nothing is compiled again. Rates, clipping, weight decay,
    accumulation, averaging and schedules are the parts' own, and each counts its own steps.

    Args:
        first: The part that begins: an optimizer not used before, a name, or a config.
        then: The other part, likewise.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the parts.

    Attributes:
        evaluations: What all steps so far computed, in gradients of the loss: a Keras variable. The
            gradient that Keras hands over counts in every step, used or not; it is left out where
            neither part uses any.

    Raises:
        ValueError: A part was built before, is none, or is in both.
    """

    needs = "closure"
    # What `example` takes beside two parts.
    example_arguments: ClassVar[dict[str, Any]] = {}

    @tracking.no_automatic_dependency_tracking
    def __init__(self, first: Any, then: Any, **kwargs: Any) -> None:
        super().__init__({"first": first, "then": then}, **kwargs)
        inside = {id(one) for one in nested.all_of(self.first)}
        twice = [one for one in nested.all_of(self.then) if id(one) in inside]
        if twice:
            raise ValueError(
                f"first and then share the optimizer {twice[0].name!r}, whose state can be that of "
                "one part only. Make a new one for each."
            )
        kinds = {getattr(one, "needs", "gradient") for p in self.parts for one in nested.all_of(p)}
        self.needs = "gradient" if kinds == {"gradient"} else "closure"
        self.averages_weights = any(map(averages, self.parts))

    @classmethod
    def example(cls, **base_arguments: Any) -> Combination:
        """Of the gradient rule with the least state, and one that keeps two moments."""
        own, of_parts = cls.split_arguments(base_arguments)
        rules = registry.members(f"{registry.PACKAGE}.gradient").values()
        kept = {rule: len(rule().slots((1,))) for rule in rules}
        plainest = min(kept, key=lambda rule: kept[rule])
        richer = min(kept, key=lambda rule: abs(kept[rule] - 2))
        return cls(plainest(**of_parts), richer(**of_parts), **cls.example_arguments, **own)

    # ------------------------------------------------------------------ what a combination declares

    def turn(self) -> Tensor:
        """Which part makes the next step: 0 or 1, an integer scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define turn().")

    def step_of(self, number: int, grads: list[Tensor], variables: list[Variable]) -> None:
        """The step of the part of that number, and all that goes with it.

        Args:
            number: 0 or 1.
            grads: Gradients of `variables`.
            variables: Those that have one.
        """
        self.step_with(self.parts[number], grads, variables)

    def shared_slots(self) -> Sequence[Slot]:
        """What was evaluated."""
        return (Slot("evaluations", ()),)

    def dearest_step(self) -> float:
        """The gradient that Keras hands over, and the dearer part's dearest step."""
        parts = [part for part in self.parts if hasattr(part, "dearest_step")]
        return 1.0 + max((part.dearest_step() for part in parts), default=1.0)

    @property
    def asks_gradient(self) -> bool:
        """Whether a part makes use of the gradient."""
        return any(map(nested.asks_gradient, self.parts))

    # ------------------------------------------------------------------ the step

    def _apply_dense(self, grads: list[Tensor], variables: list[Variable]) -> None:
        self.check_bound()
        backend.eagerly(self._step)(grads, variables)

    def check_bound(self) -> None:
        """Raises where a part needs the loss, on turn or not, and the model is not bound.

        Raises:
            RuntimeError: The message says how to bind.
        """
        if self.needs != "gradient" and objectives.current() is None:
            raise RuntimeError(
                f"{type(self).__name__} evaluates the loss again and needs a bound model. Call "
                "keras_gradopt.bind(model) before fit (again after load_model or clone_model). On "
                "JAX, Keras loses the values of a model whose first step fails: load it anew."
            )

    def _step(self, grads: list[Tensor], variables: list[Variable]) -> None:
        around = objectives.current()
        (before,) = backend.frozen([self.evaluations])

        def step(number: int) -> Callable[[], None]:
            return lambda: self.step_of(number, grads, variables)

        backend.one_of(self.turn(), [step(0), step(1)], self._all_variables())
        if around is not None:
            # What is around the combination counts Keras' gradient itself.
            spent = ops.convert_to_tensor(self.evaluations) - before
            around.evaluations += spent - around.cost_of_step

    def step_with(self, part: Any, grads: list[Tensor], variables: list[Variable]) -> None:
        """One step of a part, with what it evaluates.

        Args:
            part: One of the parts.
            grads: Gradients of `variables`.
            variables: Those that have one.
        """
        counter = _counter(part)
        before = None if counter is None else backend.frozen([counter])[0]
        with self.own_objective(), backend.stepping_inner(part):
            part.apply(grads, variables)
        self.count(1.0 if before is None else ops.convert_to_tensor(counter) - before)

    @contextlib.contextmanager
    def own_objective(self) -> Iterator[objectives.Objective | None]:
        """The minibatch's loss, if there is one, counted apart: only one branch's count is real."""
        around = objectives.current()
        if around is None:
            yield None
            return
        with objectives.offered(around.apart()):
            yield objectives.current()

    def put(self, pairs: Sequence[tuple[Variable, Any]]) -> None:
        """Assigns values to variables of its own.

        Args:
            pairs: Variables, each with its value.
        """
        with backend.no_gradient():
            backend.write(
                self, [v for v, _ in pairs], [ops.cast(value, v.dtype) for v, value in pairs]
            )

    def where_due(self, due: Tensor, does: Callable[[], None]) -> None:
        """Does something to weights and state where it is due, and nothing elsewhere."""
        functions = [lambda: None, does]
        backend.one_of(ops.cast(due, "int32"), functions, self._all_variables())

    @property
    def trained(self) -> list[Variable]:
        """The variables of `build`."""
        return list(self._trainable_variables)

    def refuse_replicas(self, what: str) -> None:
        """Raises under a strategy of several replicas.

        Raises:
            ValueError: The message says what cannot be done there.
        """
        if backend.replicas() > 1:
            raise ValueError(
                f"{what}, of which each of {backend.replicas()} replicas of tf.distribute sees its "
                "own. Train in one replica, or switch by steps or by gradients."
            )

    def count(self, evaluations: Any) -> None:
        """Adds to what was evaluated."""
        self.evaluations.assign_add(ops.cast(evaluations, self.evaluations.dtype))

    @property
    def evaluations(self) -> Variable:
        """What all steps so far computed, in gradients of the loss."""
        return self._shared["evaluations"]

    def _all_variables(self) -> list[Variable]:
        return [*self._trainable_variables, *self.variables]

    def of_part_on_turn(
        self, does: Callable[[Any], None], variables: Sequence[Variable] | None = None
    ) -> None:
        """Does something with the part on turn.

        Args:
            does: Gets the part.
            variables: All that it may assign to; None are the weights and the state.
        """
        if not self.built:
            does(self.first)
            return
        known = self._all_variables() if variables is None else variables
        first, then = self.parts
        backend.one_of(self.turn(), [lambda: does(first), lambda: does(then)], known)

    @property
    def on_turn(self) -> Any:
        """The part that makes the next step. Not within a compiled step."""
        return self.parts[int(self.turn())] if self.built else self.first

    # ------------------------------------------------------------------ Keras' own interface

    @property
    def iterations(self) -> Any:
        """Real steps of both parts."""
        first, then = (ops.convert_to_tensor(part.iterations) for part in self.parts)
        return first + then

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the part on turn."""
        try:
            return self.on_turn.learning_rate
        except TypeError:  # within a compiled step
            first, then = (ops.convert_to_tensor(part.learning_rate) for part in self.parts)
            return ops.where(self.turn() > 0, then, first)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.of_part_on_turn(lambda part: setattr(part, "learning_rate", value), self.variables)

    @property
    def follows_loss(self) -> bool:
        """Whether a part wants `observe` to be called with each loss."""
        return any(isinstance(part, Optimizer) and part.follows_loss for part in self.parts)

    def observe(self, loss: Tensor) -> None:
        """Hands a loss to the part on turn, if its schedules follow it."""
        self._is_observed = True
        if any(isinstance(part, Optimizer) and part.follows_loss for part in self.parts):
            self.of_part_on_turn(
                lambda part: part.observe(loss) if isinstance(part, Optimizer) else None,
                self.variables,
            )

    def _exchange(self, variables: Sequence[Variable] | None, *, evaluating: bool) -> None:
        def exchange(part: Any) -> None:
            if isinstance(part, Optimizer):
                put = part.put_evaluation_weights if evaluating else part.put_training_weights
                put(variables)

        if self.averages_weights and self.built:
            self.of_part_on_turn(exchange)

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        """Puts the weights that the part on turn trained for into the model."""
        self.of_part_on_turn(lambda part: part.finalize_variable_values(var_list))

    # ------------------------------------------------------------------ what became of it

    def verdict(self, steps: int) -> tuple[str | None, bool]:
        """Why the last `steps` steps moved nothing, as the part on turn says, if it searches.

        Returns:
            The reason, None if there is none, and whether that is a failure.
        """
        return verdict_of(self.on_turn, steps)

    def switch_log(self) -> list[Switched]:
        """The switches so far, of the parts, in order. Not within a compiled step."""
        return [record for part in self.parts for record in log_of(part)]


def averages(optimizer: Any) -> bool:
    """Whether an optimizer, or one inside it, is judged by an average of what it trains."""
    return any(getattr(one, "averages_weights", False) for one in nested.all_of(optimizer))


def verdict_of(part: Any, steps: int) -> tuple[str | None, bool]:
    """The verdict of a part, or of what is inside it; none where nothing searches."""
    searching = nested.first(part, lambda one: hasattr(one, "verdict"))
    return (None, False) if searching is None else searching.verdict(steps)


def log_of(part: Any) -> list[Switched]:
    """The switches within a part."""
    switching = nested.first(part, lambda one: hasattr(one, "switch_log"))
    return [] if switching is None else switching.switch_log()


def _counter(optimizer: Any) -> Variable | None:
    """Where an optimizer, or the one inside it, counts its evaluations."""
    counting = nested.first(optimizer, lambda one: hasattr(one, "evaluations"))
    return None if counting is None else counting.evaluations
