"""Optimizer: builds, saves and feeds the state of a pure update rule, as Keras calls it."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops
from keras.src.utils import tracking

from keras_gradopt import backend
from keras_gradopt import groups as parameter_groups
from keras_gradopt.arguments import Schedule, serialize, value_at
from keras_gradopt.objective import is_loss_watched
from keras_gradopt.rule import EVALUATING, Rule
from keras_gradopt.schedules import ObservesLoss, observers
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import HALF_DROPS, either, is_double, split_half
from keras_gradopt.transforms import Transform
from keras_gradopt.transforms.clip_by_global_norm import ClipByGlobalNorm
from keras_gradopt.transforms.clip_by_norm import ClipByNorm
from keras_gradopt.transforms.clip_by_value import ClipByValue

Tensor = Any
Variable = Any
NO_DECAY = parameter_groups.Group(weight_decay=0.0)


_ABOUTS_KEPT = 4


@dataclasses.dataclass
class _About:
    """What an optimizer knows of the variables of one step."""

    variables: list[Variable]
    indices: list[int]
    # In which the step is computed.
    dtypes: list[str]
    members: list[parameter_groups.Group]
    # All slots in one list, and where each variable's own begin and end.
    slots: list[Variable]
    spans: list[tuple[int, int]]
    # Positions of half-precision variables and their companions.
    lost_digits: list[tuple[int, Variable]]


class Optimizer(Rule, keras.optimizers.Optimizer):
    r"""Base of every optimizer here: a pure rule, run and kept by this class.

    A rule declares its `slots` (and `shared_slots`), and writes
    `update(w, g, *slots, h) -> (w, *slots)` in `keras.ops`, values in and values out, in float32.
    Everything else is common to all: state as Keras variables, schedules for every
    hyper-parameter, decoupled weight decay $w \leftarrow w - \eta\lambda w$ before the rule,
    gradient transforms, gradient accumulation, averaging of the weights, saving.

    Args:
        learning_rate: Step size, at least 0: a number, a schedule, or a callable without
            arguments.
        weight_decay: Decoupled decay $\lambda$ per unit of learning rate, at least 0; None is none.
        clipnorm: Clips each gradient to this Euclidean norm.
        clipvalue: Clips each entry of each gradient to [-clipvalue, clipvalue].
        global_clipnorm: Clips all gradients together to this Euclidean norm. Of the three, one.
        use_ema: Keeps an exponential moving average of the weights, which replaces them at the end
            of `fit`.
        ema_momentum: Decay of that average, in [0, 1].
        ema_overwrite_frequency: Steps after which the weights are replaced by the average; None is
            only at the end.
        loss_scale_factor: The loss is multiplied by it and gradients divided by it.
        gradient_accumulation_steps: Minibatches (at least 2) whose mean gradient makes one step.
        gradient_transforms: Transforms from `keras_gradopt.transforms`, applied in order.
        groups: Variables that are treated otherwise, by a regular expression that is searched in
            their paths; the first that is found counts. `{"embedding": {"learning_rate": 0.1},
            "bias": {"weight_decay": 0}, "encoder": {"frozen": True}}`: factors of the step and of
            the weight decay, or no step at all.
        jit_compile: Whether the step's arithmetic is compiled by itself, in a model that is not.
            True is XLA on TensorFlow and `torch.compile` on torch, which needs a C++ compiler and
            takes seconds to minutes at the first step; False never; `"auto"` compiles on TensorFlow
            what XLA is good at, and nothing on torch. JAX compiles whole steps anyway.
        schedule_clock: What schedules count under accumulation: `"step"` real steps,
            `"micro_step"` minibatches (as Keras does).
        name: Name of the optimizer, part of its variables' names.

    Raises:
        ValueError: An argument lies outside its range, or a transform is given twice.
    """

    # Keras sets these; it is untyped.
    use_ema: bool
    gradient_accumulation_steps: int | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="keras_gradopt")(cls)

    @tracking.no_automatic_dependency_tracking
    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Any = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        gradient_transforms: Sequence[Transform] = (),
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        schedule_clock: Literal["step", "micro_step"] = "step",
        jit_compile: bool | Literal["auto"] = "auto",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            allowed = [*self.argument_defaults(), *Optimizer.argument_defaults()]
            raise ValueError(
                f"{type(self).__name__} does not know the argument(s) {sorted(kwargs)}. "
                f"Allowed are {', '.join(dict.fromkeys(allowed))}."
            )
        if schedule_clock not in ("step", "micro_step"):
            raise ValueError(
                f"schedule_clock must be 'step' or 'micro_step', received {schedule_clock!r}."
            )
        super().__init__(
            learning_rate=_learning_rate(self, learning_rate),
            weight_decay=self._checked("weight_decay", weight_decay),
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        if jit_compile not in (True, False, "auto"):
            raise ValueError(
                f"jit_compile must be True, False or 'auto', received {jit_compile!r}."
            )
        self.schedule_clock = schedule_clock
        self.jit_compile = jit_compile
        # Known when the state is built; asked at every step.
        self._follows_loss = self._is_observed = False
        self.groups = parameter_groups.checked(groups)
        self.gradient_transforms = tuple(_transform(t) for t in gradient_transforms)
        self._clipping = _clipping(clipnorm, clipvalue, global_clipnorm)
        _check_no_transform_twice(self.all_transforms())

    @property
    def asks_gradient(self) -> bool:
        """Whether the step makes use of the gradient, or of values of the loss only."""
        return self.needs != "population"

    # ------------------------------------------------------------------ state as Keras variables

    @tracking.no_automatic_dependency_tracking
    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state for these variables; later steps take these and no others.

        Args:
            variables: The model's trainable variables.

        Raises:
            ValueError: There are none, or the rule cannot train in several replicas.
        """
        if self.built:
            return
        variables = list(variables)
        if not variables:
            raise ValueError(
                f"{type(self).__name__} was built without variables. The model has no trainable "
                "weights: build it, or set trainable=True on a layer."
            )
        if self.needs != "gradient" and backend.replicas() > 1:
            raise ValueError(
                f"{type(self).__name__} evaluates the loss of one minibatch, which tf.distribute "
                f"cuts into {backend.replicas()}. Train in one replica, or take an optimizer that "
                "needs gradients only."
            )
        parameter_groups.check_used("groups", self.groups, variables)
        ema, accumulation = self.use_ema, self.gradient_accumulation_steps
        # The base class would create averages and accumulators in the variables' own dtype, which
        # bfloat16 cannot hold; it keeps the index of variables, the rest is created below.
        self.use_ema, self.gradient_accumulation_steps = False, None
        super().build(variables)
        self.use_ema, self.gradient_accumulation_steps = ema, accumulation
        with backend.building():
            self._create_state(variables)

    @tracking.no_automatic_dependency_tracking
    def _create_state(self, variables: list[Variable]) -> None:
        self._abouts: list[_About] = []
        if self.use_ema:
            self._model_variables_moving_average = [
                self._state_beside(v, Slot("average")) for v in variables
            ]
        self._lost_digits = [
            self._state_beside(v, Slot("lost_digits"), v.dtype)
            if self.keeps_lost_digits and v.dtype in HALF_DROPS
            else None
            for v in variables
        ]
        if self.gradient_accumulation_steps:
            self._accumulated_gradients = [
                self._state_beside(v, Slot("gradient_accumulator")) for v in variables
            ]
        self._slots = [
            []
            if self._overwrite_variable_with_gradient(v)
            else [self._state_beside(v, slot) for slot in self.slots_for(v)]
            for v in variables
        ]
        dtype = "float64" if all(is_double(v) for v in variables) else "float32"
        self._shared = {
            name: self.add_variable(
                shape=slot.shape or (),
                initializer=lambda shape, dtype, slot=slot: ops.cast(slot.start(None), dtype),
                dtype=dtype,
                name=name,
            )
            for name, slot in self._all_shared_slots().items()
        }
        self._follows_loss = bool(self._observers())
        for name, schedule in self._observers():
            schedule.keep_state(
                {
                    slot.name: self.add_variable(
                        shape=(),
                        initializer=lambda shape, dtype, slot=slot: slot.start(None),
                        dtype="float32",
                        name=f"{name}_{slot.name}",
                    )
                    for slot in schedule.slots()
                }
            )

    def _state_beside(
        self, variable: Variable, slot: Slot, dtype: str | None = None
    ) -> Variable | None:
        if self._overwrite_variable_with_gradient(variable):
            return None
        shape = slot.shape_for(tuple(variable.shape))
        dtype = dtype or compute_dtype(variable)

        def start(_: Any, dtype: Any) -> Tensor:
            return ops.cast(slot.start(ops.cast(ops.convert_to_tensor(variable), dtype)), dtype)

        with backend.beside(variable):
            return self.add_variable(
                shape=shape,
                initializer=start,
                dtype=dtype,
                layout=getattr(variable, "_layout", None)
                if shape == tuple(variable.shape)
                else None,
                name=f"{_flat_name(variable)}_{slot.name}",
            )

    def start_from(self, variables: Sequence[Variable]) -> None:
        """Begins the state anew at the variables' present values, as if it had just been built.

        Steps that were counted stay counted, and averages by `use_ema` and accumulated gradients
        stay as they are: before the first step there are none.

        Args:
            variables: Those of `build`.
        """
        with backend.no_gradient():
            targets, values = [], []
            for v, kept in zip(variables, map(self._slots_of, variables), strict=True):
                (w,) = backend.read([v], [compute_dtype(v)])
                for slot, state in zip(self.slots_for(v) if kept else (), kept, strict=True):
                    targets.append(state)
                    values.append(ops.cast(slot.start(w), state.dtype))
            for name, slot in self._all_shared_slots().items():
                targets.append(self._shared[name])
                values.append(ops.cast(slot.start(None), self._shared[name].dtype))
            backend.write(self, targets, values)

    def _slots_of(self, variable: Variable) -> list[Variable]:
        return self._slots[self._index_of(variable)]

    # ------------------------------------------------------------------ the step as Keras calls it

    def apply(self, grads: Sequence[Tensor], trainable_variables: Any = None) -> None:
        """Moves the variables by one step (or gathers one minibatch's gradients).

        Args:
            grads: Gradients, one per variable; None where there is none.
            trainable_variables: The variables; None are those of `build`.
        """
        with backend.without_waiting():
            grads = backend.dense(grads, keeps_rows=self._leaves_rows_out())
            super().apply(grads, trainable_variables)

    def _leaves_rows_out(self) -> bool:
        """Whether rows without a gradient stay as they are, by the rule and all that is around."""
        moves_them = (
            self.weight_decay is not None
            or self.use_ema
            or self.gradient_accumulation_steps
            or self.gradient_transforms
        )
        # Keras divides by the factor in a way that rows do not know.
        return self.lazy and not moves_them and self.loss_scale_factor is None

    def _backend_apply_gradients(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Variable]
    ) -> None:
        with backend.no_gradient():
            backend.apply(self._apply_dense, list(grads), list(trainable_variables))

    def _apply_dense(self, grads: list[Tensor], variables: list[Variable]) -> None:
        """The step on summed gradients: accumulation around the pure step, then one write."""
        if self._leaves_rows_out() and any(backend.is_rows(g) for g in grads):
            self._apply_rows(grads, variables)
            return
        state = self._read(variables)
        gs = [
            g if g.dtype == w.dtype else ops.cast(g, w.dtype)
            for g, w in zip(grads, state["ws"], strict=True)
        ]
        parts = self.gradient_accumulation_steps
        if not parts:
            self._write(variables, self._stepped(state, gs, variables))
            return
        accumulators = [self._accumulated_gradients[i] for i in self._about(variables).indices]
        sums = [a + g for a, g in zip(backend.read(accumulators), gs, strict=True)]

        def step() -> tuple:
            mean = [s / parts for s in sums]
            return self._stepped(state, mean, variables), [ops.zeros_like(s) for s in sums]

        def gather() -> tuple:
            return state, sums

        last = ops.equal((self._iterations + 1) % parts, 0)
        # Only values leave the branches, so the step is computed once per real step on every
        # backend, and nothing is assigned inside a branch (which JAX cannot trace).
        new_state, new_sums = either(last, step, gather)
        self._write(variables, new_state)
        backend.write(self, accumulators, new_sums)

    def _apply_rows(self, grads: list[Tensor], variables: list[Variable]) -> None:
        """The step where some gradients hold the touched rows of their variables only."""
        pairs = [
            (g if self._lost_digits[self._index_of(v)] is None else backend.densify(g), v)
            for g, v in zip(grads, variables, strict=True)
        ]
        whole = [(g, v) for g, v in pairs if not backend.is_rows(g)]
        tables = [(g, v) for g, v in pairs if backend.is_rows(g)]
        state = self._read([v for _, v in whole])
        gs = [ops.cast(g, w.dtype) for (g, _), w in zip(whole, state["ws"], strict=True)]
        touched = []
        for found, v in tables:
            targets = [v, *self._slots[self._index_of(v)]]
            rows, g = backend.summed_rows(found)
            w, *slots = backend.read_rows(targets, rows)
            touched.append((targets, rows))
            gs.append(ops.cast(g, w.dtype))
            state["ws"].append(w)
            state["slots"].append(tuple(slots))
        new = self._stepped(state, gs, [v for _, v in (*whole, *tables)])
        ws, slots = new.pop("ws"), new.pop("slots")
        end = len(whole)
        self._write([v for _, v in whole], {**new, "ws": ws[:end], "slots": slots[:end]})
        for (targets, rows), w, own in zip(touched, ws[end:], slots[end:], strict=True):
            backend.write_rows(self, targets, rows, [w, *own])

    # ------------------------------------------------------------------ schedules of the loss

    def _observers(self) -> list[tuple[str, ObservesLoss]]:
        """The schedules among the arguments that follow the loss, with a name each."""
        names = [name for name in self.hyperparameter_names if name != "learning_rate"]
        arguments = {"learning_rate": self._learning_rate, **{n: getattr(self, n) for n in names}}
        return [
            (f"{name}_{number}" if number else name, schedule)
            for name, value in arguments.items()
            for number, schedule in enumerate(observers(value))
        ]

    def observe(self, loss: Tensor) -> None:
        """Hands a loss to the schedules that follow it, such as `ReduceOnPlateau`.

        A bound model does it after each step. In a training loop of your own call it before each
        `apply`, with the loss whose gradients are applied.

        Args:
            loss: The minibatch's loss, a scalar.
        """
        self._is_observed = True
        loss = ops.cast(loss, "float32")
        with backend.no_gradient():
            for _, schedule in self._observers():
                if schedule.state is None:
                    continue
                old = dict(zip(schedule.state, backend.read(schedule.state.values()), strict=True))
                new = schedule.observed(loss, old)
                names = list(schedule.state)
                backend.write(self, [schedule.state[n] for n in names], [new[n] for n in names])

    @property
    def follows_loss(self) -> bool:
        """Whether it wants `observe` to be called with each loss."""
        return bool(self._observers())

    def _check_observed(self) -> None:
        if not self._follows_loss or self._is_observed or is_loss_watched():
            return
        raise RuntimeError(
            f"A schedule of {type(self).__name__} follows the loss and needs a bound model. Call "
            "keras_gradopt.bind(model) before fit (again after load_model or clone_model), or "
            "optimizer.observe(loss) before each step of a loop of your own."
        )

    # ------------------------------------------------------------------ reading, stepping, writing

    def _read(self, variables: Sequence[Variable]) -> dict[str, Any]:
        about = self._about(variables)
        ws = backend.read(variables, about.dtypes)
        for position, lost in about.lost_digits:
            ws[position] = ws[position] + backend.read([lost], ["float32"])[0]
        flat = backend.read(about.slots)
        state: dict[str, Any] = {
            "ws": ws,
            "slots": [tuple(flat[start:end]) for start, end in about.spans],
            "shared": dict(zip(self._shared, backend.read(self._shared.values()), strict=True)),
        }
        if self.use_ema:
            averages = self._model_variables_moving_average
            state["averages"] = backend.read([averages[i] for i in about.indices])
        return state

    def _about(self, variables: Sequence[Variable]) -> _About:
        """What is known of these variables, looked up once: steps take the same ones again."""
        for about in self._abouts:
            if len(about.variables) == len(variables) and all(
                map(operator.is_, about.variables, variables)
            ):
                return about
        about = self._looked_up(list(variables))
        self._abouts[_ABOUTS_KEPT - 1 :] = []
        self._abouts.insert(0, about)
        return about

    def _looked_up(self, variables: list[Variable]) -> _About:
        indices = [self._index_of(v) for v in variables]
        slots = [self._slots[i] for i in indices]
        ends = list(itertools.accumulate(len(own) for own in slots))
        lost = [(n, self._lost_digits[i]) for n, i in enumerate(indices)]
        return _About(
            variables=variables,
            indices=indices,
            dtypes=[compute_dtype(v) for v in variables],
            members=[self._group_of(v) for v in variables],
            slots=[slot for own in slots for slot in own],
            spans=list(zip([0, *ends[:-1]], ends, strict=True)),
            lost_digits=[(n, digits) for n, digits in lost if digits is not None],
        )

    def _index_of(self, variable: Variable) -> int:
        try:
            return int(self._get_variable_index(variable))
        except KeyError:
            path = parameter_groups.path_of(variable)
            raise ValueError(
                f"{type(self).__name__} was not built with the variable {path!r}. Make "
                "a new optimizer for other variables, or build it with all of them."
            ) from None

    def _stepped(
        self,
        state: dict[str, Any],
        gs: list[Tensor],
        variables: Sequence[Variable],
    ) -> dict[str, Any]:
        self._check_observed()
        with backend.without_waiting():
            read = state
            state = self._exchanged(state, evaluating=False)
            # What was read is overwritten by the step in any case.
            donate = state is read
            step = self.iterations + 1
            h = self.hyperparameters(step, **self._clock_overrides())
            ws, slots, shared = self.transition(
                state["ws"],
                gs,
                state["slots"],
                state["shared"],
                h,
                self._about(variables).members,
                donate=donate,
            )
            new = {"ws": ws, "slots": slots, "shared": shared}
            if self.use_ema:
                new["averages"], new["ws"] = self._averaged(state["averages"], ws, h.step)
            return new

    def _group_of(self, variable: Variable) -> parameter_groups.Group:
        group = parameter_groups.of_path(self.groups, parameter_groups.path_of(variable))
        spared = self.weight_decay is not None and not self._use_weight_decay(variable)
        return dataclasses.replace(group, weight_decay=0.0) if spared else group

    def _learning_rate_at(self, count: Any) -> dict[str, Any]:
        rate = self._learning_rate
        if isinstance(rate, keras.Variable):
            return {"learning_rate": ops.cast(rate.value, "float32")}
        return {"learning_rate": value_at(rate, count)}

    def _clock_overrides(self) -> dict[str, Any]:
        if self.schedule_clock == "step" or not self.gradient_accumulation_steps:
            return {}
        count = ops.convert_to_tensor(self._iterations)
        return {**self.resolve(count), **self._learning_rate_at(count)}

    def _averaged(
        self, averages: list[Tensor], ws: list[Tensor], step: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        momentum = ops.where(step > 1, self.ema_momentum, 0.0)
        averages = [
            ops.cast(momentum, w.dtype) * a + ops.cast(1 - momentum, w.dtype) * w
            for a, w in zip(averages, ws, strict=True)
        ]
        if self.ema_overwrite_frequency:
            due = ops.equal(ops.mod(step, float(self.ema_overwrite_frequency)), 0.0)
            ws = [ops.where(due, a, w) for a, w in zip(averages, ws, strict=True)]
        return averages, ws

    def _write(self, variables: Sequence[Variable], state: dict[str, Any]) -> None:
        about = self._about(variables)
        targets, values = [*variables, *about.slots], list(state["ws"])
        for own in state["slots"]:
            values += own
        for position, lost in about.lost_digits:
            # Steps below half of the weights' last digit add up in the companion.
            high, low = split_half(values[position], variables[position].dtype)
            values[position] = high
            targets.append(lost)
            values.append(low)
        for name, value in state["shared"].items():
            targets.append(self._shared[name])
            values.append(value)
        if self.use_ema:
            targets += [self._model_variables_moving_average[i] for i in about.indices]
            values += state["averages"]
        backend.write(self, targets, values)

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Any) -> None:
        """Moves one variable by the rule alone, without accumulation or averaging.

        Args:
            gradient: Its gradient.
            variable: One of the variables of `build`.
            learning_rate: Step size.
        """
        with backend.no_gradient():
            state = self._read([variable])
            g = ops.cast(backend.densify(gradient), state["ws"][0].dtype)
            h = self.hyperparameters(
                self.iterations + 1, learning_rate=ops.cast(learning_rate, "float32")
            )
            ws, slots, shared = self.transition(
                state["ws"], [g], state["slots"], state["shared"], h, [NO_DECAY]
            )
            self._write([variable], {**state, "ws": ws, "slots": slots, "shared": shared})

    # ------------------------------------------------------------------ weights for evaluation

    def put_evaluation_weights(self, variables: Sequence[Variable] | None = None) -> None:
        """Puts the weights to evaluate and save into the variables, where they are others.

        Nothing happens where they are in already, and for rules that do not average. The end of
        `fit` does it by itself; `keras_gradopt.callbacks.EvaluationWeights`, which a bound model
        has, around each evaluation and at the end of each epoch. The next step takes the weights
        in training back by itself, but its gradient was taken at these.

        Args:
            variables: The model's trainable variables; None are those of `build`.
        """
        self._exchange(variables, evaluating=True)

    def put_training_weights(self, variables: Sequence[Variable] | None = None) -> None:
        """Puts the weights at which gradients are to be taken back into the variables.

        Args:
            variables: The model's trainable variables; None are those of `build`.
        """
        self._exchange(variables, evaluating=False)

    def _exchange(self, variables: Sequence[Variable] | None, *, evaluating: bool) -> None:
        if not self.averages_weights or not self.built:
            return
        known = self._trainable_variables if variables is None else list(variables)
        with backend.no_gradient():
            state = self._exchanged(self._read(known), evaluating=evaluating)
            self._write(known, state)

    def _exchanged(self, state: dict[str, Any], *, evaluating: bool) -> dict[str, Any]:
        """State with the weights of the one kind or the other; as it is if they are in."""
        if not self.averages_weights:
            return state
        shared = state["shared"]
        due = ops.not_equal(shared[EVALUATING] > 0, evaluating)
        if backend.known(due) is False:
            return state
        turn = self.evaluation_weights if evaluating else self.training_weights
        rows = [(w, *slots) for w, slots in zip(state["ws"], state["slots"], strict=True)]
        turned = [
            [ops.where(due, a, b) for a, b in zip(turn(*row), row, strict=True)] for row in rows
        ]
        return {
            **state,
            "ws": [row[0] for row in turned],
            "slots": [tuple(row[1:]) for row in turned],
            "shared": {
                **shared,
                EVALUATING: ops.zeros_like(shared[EVALUATING]) + float(evaluating),
            },
        }

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        """Puts the weights that training was for into the model: Keras calls it after `fit`."""
        if self.averages_weights and not self.use_ema:
            self.put_evaluation_weights(var_list)
        else:
            super().finalize_variable_values(var_list)

    # ------------------------------------------------------------------ Keras' own interface

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, Schedule):
            micro = self.schedule_clock == "micro_step"
            return self._learning_rate(self._iterations if micro else self.iterations)
        return super()._get_current_learning_rate()

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[Variable]
    ) -> None:
        averages = self._model_variables_moving_average
        if len(trainable_variables) != len(averages):
            raise ValueError(
                f"Received {len(trainable_variables)} variables to replace by their averages, but "
                f"{type(self).__name__} keeps {len(averages)}. Call it with the variables it was "
                "built with."
            )
        for variable, average in zip(trainable_variables, averages, strict=True):
            if average is not None:
                self.assign(variable, ops.cast(ops.copy(average.value), variable.dtype))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON; `from_config` takes them back."""
        return {
            **super().get_config(),
            "weight_decay": serialize(self.weight_decay),
            "gradient_transforms": serialize(self.gradient_transforms),
            "groups": parameter_groups.to_config(self.groups),
            "schedule_clock": self.schedule_clock,
            "jit_compile": self.jit_compile,
            **self.arguments_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Optimizer:
        """Makes the optimizer that `get_config` described (without its state)."""
        return cls(**deserialized(config, custom_objects))


def deserialized(config: dict[str, Any], custom_objects: Any = None) -> dict[str, Any]:
    """A config with its nested objects (schedules, transforms, optimizers) made."""

    def made(value: Any) -> Any:
        if isinstance(value, dict) and "class_name" in value:
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
        if isinstance(value, list | tuple):
            return [made(item) for item in value]
        return value

    return {name: made(value) for name, value in config.items()}


def compute_dtype(variable: Variable) -> str:
    """float64 for float64 variables, else float32: half precision cannot hold moments."""
    return "float64" if is_double(variable) else "float32"


def _flat_name(variable: Variable) -> str:
    return parameter_groups.path_of(variable).replace("/", "_").replace(":", "_")


def _learning_rate(optimizer: Optimizer, value: Any) -> Any:
    if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
        value = float(keras.ops.convert_to_numpy(value))
    if value is None:
        raise ValueError("learning_rate must be a number or a schedule, received None.")
    return optimizer._checked("learning_rate", value)


def _transform(value: Any) -> Transform:
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if not isinstance(value, Transform):
        raise ValueError(
            f"gradient_transforms takes objects of keras_gradopt.transforms, received {value!r}."
        )
    return value


def _check_no_transform_twice(transforms: Sequence[Transform]) -> None:
    kinds = [type(t).__name__ for t in transforms]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(
            f"The gradients would go through {', '.join(twice)} twice. Give one in "
            "gradient_transforms, or the argument (clipnorm, clipvalue, global_clipnorm), not both."
        )


def _clipping(
    clipnorm: float | None, clipvalue: float | None, global_clipnorm: float | None
) -> tuple[Transform, ...]:
    """Keras' three clipping arguments as the transforms they are; 0 is off, as in Keras."""
    if clipnorm:
        return (ClipByNorm(clipnorm),)
    if global_clipnorm:
        return (ClipByGlobalNorm(global_clipnorm),)
    if clipvalue:
        return (ClipByValue(clipvalue),)
    return ()
