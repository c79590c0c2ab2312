"""Hybrid: one optimizer first, another after a switch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_gradopt import nested, switches
from keras_gradopt import objective as objectives
from keras_gradopt.hybrid import Combination, Switched, log_of
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.slot import Slot
from keras_gradopt.switches import Decision, Seen, State

Tensor = Any
Variable = Any

# Why it switched, in the shared slot `cause`.
BY_SWITCH, BY_HAND, BY_ENDED_SEARCH = range(3)
# The losses since the step before: their sum, and how many.
_LOSSES = ("loss_sum", "losses")


class Hybrid(Combination):
    r"""One optimizer until a criterion says that it has done its part, then another.

    Use it where one method finds the valley and another goes down in it: a search by losses before
    gradients, Adam before L-BFGS, a fast start before SGD. With the weights $w_t$ and the parts'
    steps $A$ and $B$, and the first step $T$ at which the switch is due,

    $$w_{t+1} = \begin{cases} A(w_t) & t \le T \\ B(w_t) & t > T \end{cases}$$

    The second part begins at the weights that it finds, as if it had just been made: no momentum is
    handed over, and its schedules count its own steps. If the first part averages weights
    (Schedule-Free rules, `WeightAveraging`, `use_ema`), what it hands over is the average. A first
    part that searches by the loss and finds no step in a whole epoch hands over as well, in a bound
    model. There is no way back. A hybrid may be a part of another one: three methods, two switches.

    `switch_log()` tells when and why, and so does `fit` of a bound model, at the end of the epoch.
    `hand_over()` switches by hand, between two steps. State of both parts is kept throughout. A
    model must be bound, `keras_gradopt.bind(model)`, where a part or the switch evaluates the loss
    or follows it.

    Args:
        first: $A$: an optimizer not used before, a name, or a config.
        then: $B$, likewise.
        switch: When to switch: steps of the first part, at least 1; one of
            `keras_gradopt.switches`; or its name in any spelling, for its defaults: "plateau",
            "slow progress", "gradient noise", "saddle".
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the parts.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=Hybrid(Adam(0.05), LBFGS(), switch=8), loss="mse")
        >>> history = model.fit(x, y, batch_size=32, epochs=10, verbose=0)
        >>> print(*model.optimizer.switch_log())
        after step 8 LBFGS follows Adam: 8 steps were asked for.

    References:
        Keskar, Socher. Improving Generalization Performance by Switching from Adam to SGD.
        arXiv:1712.07628, 2017 (one gradient method after another; `SWATS` is their rule). Raissi,
        Perdikaris, Karniadakis. Physics-informed neural networks. Journal of Computational Physics
        378, 2019 (L-BFGS last). The mechanism is ours.
    """

    example_arguments: ClassVar[dict[str, Any]] = {"switch": 10}

    def __init__(self, first: Any, then: Any, switch: Any, **kwargs: Any) -> None:
        super().__init__(first, then, **kwargs)
        self.declare(switch=switches.made(switch))
        if self.switch.needs_objective:
            self.needs = "closure"
            if self._accumulates():
                raise ValueError(
                    f"{type(self.switch).__name__} looks at the loss of one minibatch, and the "
                    f"gradients of {type(self.first).__name__} are accumulated over several. Use a "
                    "larger batch_size, or another switch."
                )

    def _accumulates(self) -> bool:
        return any(one.gradient_accumulation_steps for one in nested.all_of(self.first))

    # ------------------------------------------------------------------ state

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """What the switch keeps beside each variable."""
        del shape
        return [Slot(f"switch_{slot.name}", None, slot.initial) for slot in self._beside()]

    def _beside(self) -> list[Slot]:
        return [slot for slot in self.switch.slots() if slot.shape is None]

    def shared_slots(self) -> Sequence[Slot]:
        """The stage, the switch's state, and the log: when, why, and the numbers that decided."""
        of_switch = [slot for slot in self.switch.slots() if slot.shape is not None]
        return (
            *super().shared_slots(),
            *(Slot(name, ()) for name in ("stage", "switch_step", "cause")),
            *(Slot(name, ()) for name in _LOSSES if self.switch.follows_loss),
            *(Slot(f"switch_{slot.name}", slot.shape, slot.initial) for slot in of_switch),
            *(Slot(f"number_{name}", ()) for name in self.switch.numbers),
        )

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state; refuses what cannot go together.

        Raises:
            ValueError: The switch follows the loss, of which each of several replicas sees its own.
        """
        if not self.built and self.switch.follows_loss:
            self.refuse_replicas(f"{type(self.switch).__name__} follows the loss")
        super().build(variables)

    # ------------------------------------------------------------------ the step

    def turn(self) -> Tensor:
        """0 before the switch, 1 after it."""
        return ops.cast(ops.convert_to_tensor(self._shared["stage"]), "int32")

    @property
    def asks_gradient(self) -> bool:
        """Whether a part or the switch makes use of the gradient."""
        return self.switch.reads_gradient or super().asks_gradient

    def step_of(self, number: int, grads: list[Tensor], variables: list[Variable]) -> None:
        """A step; the first part's with a look at whether it was its last."""
        if number:
            super().step_of(number, grads, variables)
            return
        before = ops.copy(ops.convert_to_tensor(self.first.iterations))
        # At the weights of the gradient: the step may overwrite them.
        decision = self._decided(before + 1, grads, variables)
        self.step_with(self.first, grads, variables)
        self._take(decision, before, variables)

    def _decided(self, step: Tensor, grads: list[Tensor], variables: list[Variable]) -> Decision:
        """What the switch says, as if the first part's step were a whole one."""
        read = self._read(variables)
        shared = {name: ops.cast(value, "float32") for name, value in read["shared"].items()}
        state: State = {
            slot.name: [own[i] for own in read["slots"]] for i, slot in enumerate(self._beside())
        }
        for slot in self.switch.slots():
            if slot.shape is not None:
                state[slot.name] = shared[f"switch_{slot.name}"]
        loss, is_known = None, None
        if self.switch.follows_loss:
            is_known = shared["losses"] > 0
            loss = shared["loss_sum"] / ops.maximum(shared["losses"], 1.0)
        with self.own_objective() as objective:
            needed = objective if self.switch.needs_objective else None
            if needed is not None:
                needed.over(variables)
            gs = [ops.cast(g, w.dtype) for g, w in zip(grads, read["ws"], strict=True)]
            seen = Seen(
                step=ops.cast(step, "float32"),
                ws=read["ws"],
                gs=gs,
                loss=loss,
                objective=needed,
            )
            decision = self.switch.decide(seen, state)
            if needed is not None:
                self.count(needed.evaluations)
        if is_known is None:
            return decision
        # Before the first loss there is nothing to decide by.
        return Decision(
            decision.due & is_known, _where(is_known, decision.state, state), decision.numbers
        )

    def _take(self, decision: Decision, before: Tensor, variables: list[Variable]) -> None:
        """Keeps what the switch said, if the step was a whole one, and switches if it is due."""
        now = ops.convert_to_tensor(self.first.iterations)
        stepped = ops.not_equal(now, before)
        due = decision.due & stepped
        new: list[tuple[Variable, Any]] = [
            (self._shared[f"number_{name}"], value) for name, value in decision.numbers.items()
        ]
        beside = [slot.name for slot in self._beside()]
        for position, v in enumerate(variables):
            pairs = zip(self._slots_of(v), beside, strict=True)
            new += [(kept, decision.state[name][position]) for kept, name in pairs]
        new += [
            (self._shared[f"switch_{name}"], value)
            for name, value in decision.state.items()
            if name not in beside
        ]
        if self.switch.follows_loss:
            new += [(self._shared[name], 0.0) for name in _LOSSES]
        if self._accumulates():
            new = [
                (v, ops.where(stepped, ops.cast(x, v.dtype), ops.convert_to_tensor(v)))
                for v, x in new
            ]
        stage, step = self._shared["stage"], self._shared["switch_step"]
        self.put([*new, (stage, due), (step, ops.where(due, now, 0))])
        self.where_due(due, self._begin_then)

    def _begin_then(self) -> None:
        """The weights that the first part was for, and a fresh second part there."""
        self.first.finalize_variable_values(self.trained)
        for one in nested.all_of(self.then):
            if isinstance(one, Optimizer):
                one.start_from(self.trained)

    def hand_over(self, *, search_ended: bool = False) -> bool:
        """Goes on with the next part from now on. Between two steps only.

        Of hybrids within hybrids it is the innermost on turn that switches.

        Args:
            search_ended: Whether it is for want of steps, for the log.

        Returns:
            Whether there was a next part.

        Raises:
            RuntimeError: The optimizer is not built.
        """
        if not self.built:
            raise RuntimeError(
                f"{type(self).__name__} was not built yet. Build it, or make its second part the "
                "optimizer."
            )
        inside = nested.first(self.on_turn, lambda one: hasattr(one, "hand_over"))
        if inside is not None and inside.hand_over(search_ended=search_ended):
            return True
        if int(self.turn()):
            return False
        self.put(
            [
                (self._shared["stage"], 1.0),
                (self._shared["switch_step"], self.first.iterations),
                (self._shared["cause"], float(BY_ENDED_SEARCH if search_ended else BY_HAND)),
            ]
        )
        self._begin_then()
        return True

    # ------------------------------------------------------------------ the loss that is followed

    @property
    def follows_loss(self) -> bool:
        """Whether the switch or a part wants `observe` to be called with each loss."""
        return self.switch.follows_loss or super().follows_loss

    def observe(self, loss: Tensor) -> None:
        """Hands a loss to the switch, and to the part on turn."""
        super().observe(loss)
        if self.switch.follows_loss and self.built:
            total, count = (self._shared[name] for name in _LOSSES)
            self.put([(total, total + ops.cast(loss, total.dtype)), (count, count + 1.0)])

    def check_bound(self) -> None:
        """Raises where the loss is needed or followed and the model is not bound."""
        super().check_bound()
        if self.switch.follows_loss and not self._is_observed and not objectives.is_loss_watched():
            raise RuntimeError(
                f"{type(self.switch).__name__} follows the loss and needs a bound model. Call "
                "keras_gradopt.bind(model) before fit (again after load_model or clone_model), or "
                "optimizer.observe(loss) before each step of a loop of your own."
            )

    # ------------------------------------------------------------------ what became of it

    def switch_log(self) -> list[Switched]:
        """The switches so far, in order: when, from what to what, and why.

        Not within a compiled step.
        """
        if not self.built or not int(self.turn()):
            return log_of(self.first)
        numbers = {name: float(self._shared[f"number_{name}"]) for name in self.switch.numbers}
        reasons = {
            BY_SWITCH: self.switch.reason(numbers),
            BY_HAND: "hand_over was called",
            BY_ENDED_SEARCH: "no step of a whole epoch moved the weights",
        }
        step = int(self._shared["switch_step"])
        before, later = log_of(self.first), log_of(self.then)
        switched = Switched(
            step,
            before[-1].after if before else _begins(self.first),
            _begins(self.then),
            reasons[int(self._shared["cause"])],
        )
        return [
            *before,
            switched,
            *(dataclasses.replace(record, step=record.step + step) for record in later),
        ]


def _where(condition: Tensor, new: State, old: State) -> State:
    return keras.tree.map_structure(lambda a, b: ops.where(condition, a, b), new, old)


def _begins(part: Any) -> str:
    """The name of an optimizer, or of the one that steps first inside a combination."""
    return _begins(part.first) if isinstance(part, Combination) else type(part).__name__
