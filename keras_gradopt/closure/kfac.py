"""KFAC: natural gradients by Kronecker products of what layers see and are told."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt import groups as parameter_groups
from keras_gradopt import kronecker, layers, likelihood
from keras_gradopt import objective as objectives
from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.kronecker import Pair, Sides
from keras_gradopt.layers import Block
from keras_gradopt.ranges import DECAY_RATE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite, either

Tensor = Any
Variable = Any
State = tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]


class KFAC(EvaluatesLoss):
    r"""Natural gradient with a Kronecker product for the curvature of each layer.

    Use it where steps count, as with deep autoencoders and ill-conditioned networks of dense and
    convolution layers; the model must be bound: `keras_gradopt.bind(model)`. With inputs $a$ of a
    layer $W$, the gradient $d$ at its output before the activation, drawn as `fisher` says, and the
    gradient $\nabla W$ of the loss, decay $\rho$, damping $\lambda$, momentum $\mu$, rate $\eta$:

    $$A_t = \rho A_{t-1} + (1-\rho) \,\mathrm{E}[a a^\top], \quad
      G_t = \rho G_{t-1} + (1-\rho) \,\mathrm{E}[d d^\top]$$
    $$D_t = (\hat A_t + \pi\sqrt\lambda I)^{-1} \nabla W_t
      (\hat G_t + \tfrac{\sqrt\lambda}{\pi} I)^{-1}, \quad
      \pi^2 = \frac{\mathrm{tr}(\hat A_t) / \dim A}{\mathrm{tr}(\hat G_t) / \dim G}$$
    $$\nu = \min\left(1, \sqrt{\kappa / (\eta^2 \textstyle\sum \langle D_t, \nabla W_t\rangle)}
      \right), \quad u_t = \mu u_{t-1} - \eta\nu D_t, \quad W_t = W_{t-1} + u_t$$

    where hats divide by the sum of the weights $(1-\rho)\rho^k$. Dense layers (also along
    sequences), EinsumDense, Conv1D to Conv3D, Embedding and the scales and shifts of normalisations
    are found by themselves. All other weights get the diagonal of the curvature, and one warning
    names their layers.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule. `norm_constraint` keeps
            steps short, so that it may be large.
        momentum: $\mu$, in [0, 1): a number or a schedule.
        damping: $\lambda$ above 0 in units of the loss' curvature, a number or a schedule. Larger
            is closer to the gradient and safer.
        norm_constraint: $\kappa$ above 0: the most that a step may change the model's predictions,
            $\eta^2 D^\top F D$, about twice their divergence; None is no limit.
        decay: $\rho$, in [0, 1): how long the factors are averaged.
        fisher: `"mc"` estimates the curvature at targets drawn from the model's own predictions,
            which is the Fisher information and the generalised Gauss-Newton matrix: for mean
            squared error, Poisson and binary or categorical crossentropy. `"empirical"` takes the
            data's own targets, and does so for all other losses, with one warning.
        curvature_interval: Steps between two looks at the layers, at least 1. The first costs one
            gradient more than others.
        inverse_interval: Steps between two inversions, at least 1.
        max_factor: The longest side of a layer (inputs, or outputs) whose factor is kept whole; of
            longer ones the diagonal is.
        diagonal: Regular expressions that are searched in variables' paths: layers to treat by the
            diagonal of the curvature without a warning.
        seed: Of the random numbers behind `"mc"`, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            the loss' gradient; decoupled weight decay is as everywhere.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=KFAC(), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Martens, Grosse. Optimizing Neural Networks with Kronecker-factored Approximate Curvature.
        ICML 2015, sections 3 to 6: block-diagonal, with factored damping (6.3). Grosse, Martens. A
        Kronecker-factored Approximate Fisher Matrix for Convolution Layers. ICML 2016, section 3.
        Ba, Grosse, Martens. Distributed Second-Order Optimization using Kronecker-Factored
        Approximations. ICLR 2017, section 5 (norm constraint). Rate, momentum and damping are given
        or scheduled, not adapted by a quadratic model. Targets are not drawn: random signs make
        gradients at the outputs of the same mean and covariance. A layer that is called several
        times has all calls' positions, as in Eschenhagen, Immer, Turner, Schneider, Hennig.
        Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures. NeurIPS
        2023 ("expand").
    """

    needs = "layers"
    draws = True
    gradient_evaluations_per_step = 2.0
    ranges: ClassVar[dict[str, Range]] = {
        "momentum": DECAY_RATE,
        "damping": POSITIVE,
        "norm_constraint": POSITIVE,
        "decay": DECAY_RATE,
    }
    # By position among the variables of `build`.
    _blocks: tuple[Block, ...] = ()

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: Any = 0.9,
        damping: Any = 3e-2,
        norm_constraint: Any = 1e-3,
        decay: Any = 0.95,
        fisher: Literal["mc", "empirical"] = "mc",
        curvature_interval: int = 1,
        inverse_interval: int = 1,
        max_factor: int = 2048,
        diagonal: Sequence[str] = (),
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if fisher not in ("mc", "empirical"):
            raise ValueError(f"fisher must be 'mc' or 'empirical', received {fisher!r}.")
        self.declare(
            momentum=momentum, damping=damping, norm_constraint=norm_constraint, decay=decay
        )
        self.declare(
            fisher=fisher,
            curvature_interval=positive_int("curvature_interval", curvature_interval),
            inverse_interval=positive_int("inverse_interval", inverse_interval),
            max_factor=positive_int("max_factor", max_factor),
            diagonal=(diagonal,) if isinstance(diagonal, str) else tuple(diagonal),
            seed=positive_int("seed", seed, least=0),
        )
        self._has_warned = False

    # ------------------------------------------------------------------ which state belongs where

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state for these variables, by the layers of the bound model.

        A loaded optimizer knows the layers of the model that it was saved with.
        """
        model = objectives.bound_model()
        if not self.built and model is not None:
            found = layers.find(model, self._training(variables), self.diagonal)
            self._blocks = found.blocks
            self._warn_of(found.others)
        elif not self.built and not _fit(self._blocks, variables):
            self._blocks = ()
        # Past Keras' tracking, which would take the model's variables for the optimizer's own.
        object.__setattr__(self, "_known", list(variables))
        super().build(variables)

    def _training(self, variables: Sequence[Variable]) -> list[Variable | None]:
        """The variables, None in place of those of frozen groups."""
        groups = [parameter_groups.of_path(self.groups, v.path) for v in variables]
        return [None if g.frozen else v for g, v in zip(groups, variables, strict=True)]

    def _warn_of(self, others: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        if others:
            named = ", ".join(f"{name!r} ({kind})" for name, kind, _ in others)
            warnings.warn(
                f"{type(self).__name__} does not know the inner workings of {named}: the weights "
                "there get the diagonal of the curvature, a far weaker approximation. Name them in "
                "`diagonal` if that is meant.",
                stacklevel=2,
            )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Beside the kernel of a dense layer without bias: factors, their inverses, velocity."""
        if len(shape) < 2:
            return (*self._velocity(), Slot("diagonal"))
        block = Block("product", 0, None, 1, math.prod(shape[:-1]), shape[-1])
        return (*self._velocity(), *self.block_slots(block))

    def slots_for(self, variable: Variable) -> Sequence[Slot]:
        """The velocity, and beside a layer's first variable what is kept of its curvature."""
        index = self._index_of(variable)
        for block in self._blocks:
            if block.positions[0] == index:
                return (*self._velocity(), *self.block_slots(block))
            if index in block.positions:
                return self._velocity()
        return (*self._velocity(), Slot("diagonal"))

    def _velocity(self) -> tuple[Slot, ...]:
        return () if self.momentum == 0.0 else (Slot("velocity"),)

    def _sides(self, block: Block) -> Sides:
        return kronecker.sides(block, self.max_factor)

    def shared_slots(self) -> Sequence[Slot]:
        """The sum of the weights in the factors' averages."""
        return (Slot("weight_of_factors", shape=()),)

    # ------------------------------------------------------------------ what EKFAC does otherwise

    def block_slots(self, block: Block) -> list[Slot]:
        """What is kept of one layer's curvature: the factors, and inverses if they are kept."""
        names = ["factor"] if self.inverse_interval == 1 else ["factor", "inverse"]
        shapes = kronecker.shapes(block, self._sides(block))
        return [
            Slot(f"{side}_{name}", shape)
            for name in names
            for side, shape in zip(kronecker.SIDES, shapes, strict=True)
            if shape is not None
        ]

    def statistic_shapes(self, block: Block) -> list[tuple[int, ...]]:
        """Shapes of what `statistics` returns."""
        return [s for s in kronecker.shapes(block, self._sides(block)) if s is not None]

    def statistics(
        self, block: Block, own: tuple[Tensor, ...], a: Tensor, d: Tensor
    ) -> list[Tensor]:
        """What one minibatch says of a layer's curvature: its factors.

        Args:
            block: The layer's weights.
            own: Its slots.
            a: Inputs, as `layers.Seen.examples` gives them.
            d: Output gradients, as it gives them.
        """
        del own
        return [x for x in kronecker.factors(block, self._sides(block), a, d) if x is not None]

    def natural(
        self,
        block: Block,
        own: tuple[Tensor, ...],
        found: Sequence[Tensor],
        g: Tensor,
        h: Hyperparameters,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A layer's direction, and its new slots.

        Args:
            block: The layer's weights.
            own: Its slots.
            found: `statistics` of this minibatch; zeros where none were taken.
            g: The gradient as a matrix, shape (groups, rows, outputs).
            h: Hyper-parameters; `h.averaging` holds what the old averages count, what the new
                statistics do, and what an average is multiplied by.
        """
        count = len(found)
        factors = averaged(own[:count], found, h)

        def inverted() -> list[Tensor]:
            pair = self._pair([f * h.averaging["correction"] for f in factors])
            return [x for x in kronecker.damped_inverses(pair, h.damping) if x is not None]

        if self.inverse_interval == 1:
            return kronecker.times(self._pair(inverted()), g), tuple(factors)
        inverses = either(
            self._is_due(h, self.inverse_interval), inverted, lambda: list(own[count:])
        )
        return kronecker.times(self._pair(inverses), g), (*factors, *inverses)

    def _pair(self, parts: Sequence[Tensor]) -> Pair:
        return Pair(*parts) if len(parts) == 2 else Pair(None, parts[0])

    def _is_due(self, h: Hyperparameters, interval: int) -> Tensor:
        return ops.equal(ops.mod(ops.cast(h.step, "float32") - 1.0, float(interval)), 0.0)

    # ------------------------------------------------------------------ the look at the layers

    def _stepped(
        self, state: dict[str, Any], gs: list[Tensor], variables: Sequence[Variable]
    ) -> dict[str, Any]:
        # Positions among the variables of `build`: of some there may be no gradient.
        object.__setattr__(self, "_stepping", tuple(self._index_of(v) for v in variables))
        return super()._stepped(state, gs, variables)

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
    ) -> State:
        """One step: a look at the layers where it is due, then the pure step on what was seen."""
        del donate
        if not hasattr(h, "curvature"):
            h = h.replace(curvature=self._curvature(ws, slots, h))
        return super().transition(ws, gs, slots, shared, h, members)

    def _curvature(
        self, ws: list[Tensor], slots: list[tuple[Tensor, ...]], h: Hyperparameters
    ) -> list[Tensor]:
        """What this minibatch says of the curvature, and last whether it says anything, 0 or 1.

        Per layer its `statistics`, then per other variable the diagonal.
        """
        found, noise = self._found(), self._noise(h)
        place = {index: i for i, index in enumerate(self._stepping)}
        blocks = self._present(place)
        others = [place[i] for i in self._others() if i in place]

        def look() -> list[Tensor]:
            pass_ = self.objective.layers(ws, noise, found)
            # A draw of targets carries its scale; else gradients are those of a mean.
            size = 1.0 if noise else ops.cast(self.objective.examples(), "float32")
            stats: list[Tensor] = []
            for number, block in blocks:
                a, d = pass_.seen[number].examples()
                d = d * ops.cast(ops.sqrt(size), d.dtype)
                stats += self.statistics(block, self._own(slots[place[block.positions[0]]]), a, d)
            gs = [pass_.gradients[i] for i in others]
            stats += [g * g * ops.cast(size, g.dtype) for g in gs]
            finite = all_finite(stats)
            # A minibatch that overflows says nothing.
            stats = [ops.where(finite, x, ops.zeros_like(x)) for x in stats]
            return [*stats, ops.cast(finite, "float32")]

        if self.curvature_interval == 1:
            return look()
        shapes = [s for _, block in blocks for s in self.statistic_shapes(block)]
        shapes += [tuple(ws[i].shape) for i in others]
        dtype, before = ws[0].dtype, self.objective.evaluations
        due = self._is_due(h, self.curvature_interval)
        looked = either(
            due, look, lambda: [*(ops.zeros(s, dtype) for s in shapes), ops.zeros((), "float32")]
        )
        self.objective.evaluations = before + ops.cast(due, "float32")
        return looked

    def _found(self) -> layers.Found:
        model = objectives.bound_model()
        found = layers.find(model, self._training(self._known), self.diagonal)
        if found.blocks != self._blocks:
            raise RuntimeError(
                f"{type(self).__name__} was built without a look at the layers of this model, or "
                "for another one. Call keras_gradopt.bind(model) before anything builds the "
                "optimizer, and leave optimizer.build to Keras."
            )
        return found

    def _noise(self, h: Hyperparameters) -> Callable[[tuple, int], Tensor] | None:
        """The random numbers behind the draw of targets; None where the loss allows none."""
        if self.fisher == "empirical":
            return None
        unknown = likelihood.unknown(objectives.bound_model())
        if not unknown:
            return lambda shape, number: h.normal(shape, self.seed, number)
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{type(self).__name__} knows no likelihood behind {', '.join(unknown)} and takes "
                "the empirical curvature, at the data's own targets. Give fisher='empirical' if "
                "that is meant.",
                stacklevel=2,
            )
        return None

    def _present(self, place: dict[int, int]) -> list[tuple[int, Block]]:
        """The blocks whose curvature is at hand: their first variable steps."""
        return [(n, b) for n, b in enumerate(self._blocks) if b.positions[0] in place]

    def _others(self) -> list[int]:
        """The positions of all variables outside of blocks."""
        taken = {i for block in self._blocks for i in block.positions}
        return [
            i for i, v in enumerate(self._training(self._known)) if v is not None and i not in taken
        ]

    def _own(self, slots: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return slots[len(self._velocity()) :]

    # ------------------------------------------------------------------ the pure step

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
    ) -> State:
        """The step as a function of gradients and of what was seen of the curvature."""
        del donate
        if not transformed:
            gs, factor, shared = self.transformed(gs, ws, shared, h)
        if factor is not None:
            gs = [g * ops.cast(factor, g.dtype) for g in gs]
        *stats, seen = h.curvature
        shared, averaging = self._averaging(shared, seen, h)
        h = h.replace(averaging=averaging, shared=shared, transforms=())
        directions, kept = self._directions(gs, slots, stats, h)
        if self.norm_constraint is not None:
            along = sum(ops.sum(d * g) for d, g in zip(directions, gs, strict=True))
            # Below 1e-30 the step is short enough for any limit.
            length = ops.maximum(h.learning_rate**2 * along, 1e-30)
            short = ops.minimum(1.0, ops.sqrt(h.norm_constraint / length))
            directions = [d * ops.cast(short, d.dtype) for d in directions]
        rows = zip(ws, directions, kept, members, strict=True)
        moved = [self.move(w, d, *own, h=h, member=member) for w, d, own, member in rows]
        return [w for w, *_ in moved], [tuple(own) for _, *own in moved], shared

    def _averaging(
        self, shared: dict[str, Tensor], seen: Tensor, h: Hyperparameters
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weight = shared["weight_of_factors"]
        new = (1.0 - h.decay) * ops.cast(seen, weight.dtype)
        weight = (1.0 - new) * weight + new
        # Before anything was seen the averages are 0.
        correction = 1.0 / ops.maximum(weight, 1e-12)
        averaging = {"old": 1.0 - new, "new": new, "correction": correction, "seen": seen}
        return {**shared, "weight_of_factors": weight}, averaging

    def _directions(
        self,
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        stats: Sequence[Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """Per variable its direction, and its slots with the new curvature."""
        training = self._training(self._known)
        stepping = [i for i in self._stepping if training[i] is not None]
        place = {index: i for i, index in enumerate(stepping)}
        directions, kept, rest = list(gs), list(slots), list(stats)
        for _, block in self._present(place):
            shapes = [tuple(self._known[i].shape) for i in block.positions]
            # A variable without a gradient stays where it is.
            parts = [
                gs[place[i]] if i in place else ops.zeros(shape, gs[0].dtype)
                for i, shape in zip(block.positions, shapes, strict=True)
            ]
            main = place[block.positions[0]]
            count = len(self.statistic_shapes(block))
            found, rest = rest[:count], rest[count:]
            d, own = self.natural(block, self._own(slots[main]), found, block.matrix(parts), h)
            kept[main] = (*slots[main][: len(self._velocity())], *own)
            for i, part in zip(block.positions, block.variables(d, shapes), strict=True):
                if i in place:
                    directions[place[i]] = part
        for i in (place[i] for i in self._others() if i in place):
            (square,) = averaged(self._own(slots[i]), [rest.pop(0)], h)
            damping = ops.cast(h.damping, square.dtype)
            directions[i] = gs[i] / (square * h.averaging["correction"] + damping)
            kept[i] = (*slots[i][: len(self._velocity())], square)
        return directions, kept

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable along its direction; what is kept of the curvature stays."""
        if self.momentum == 0.0:
            return (w - h.learning_rate * g, *slots)
        u, *rest = slots
        u = h.momentum * u - h.learning_rate * g
        return (w + u, u, *rest)

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Any) -> None:
        """Not defined for one variable alone: layers step whole."""
        raise NotImplementedError(
            f"{type(self).__name__} steps whole layers together: train a bound model with fit."
        )

    # ------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and once built which weights belong to which layers."""
        blocks = [dataclasses.asdict(block) for block in self._blocks]
        return {**super().get_config(), **({"blocks": blocks} if blocks else {})}

    def with_blocks(self, blocks: Sequence[dict[str, Any]]) -> KFAC:
        """Itself, with state to be built as for these layers where no model is in sight."""
        self._blocks = tuple(Block(**block) for block in blocks)
        return self

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> KFAC:
        """Makes the optimizer that `get_config` described (without its state)."""
        config = dict(config)
        blocks = config.pop("blocks", ())
        made = super().from_config(config, custom_objects)
        return made.with_blocks(blocks)


def averaged(old: Sequence[Tensor], found: Sequence[Tensor], h: Hyperparameters) -> list[Tensor]:
    """Averages with what was found counted in."""
    pairs = zip(old, found, strict=True)
    return [h.averaging["old"] * a + h.averaging["new"] * b for a, b in pairs]


def _fit(blocks: Sequence[Block], variables: Sequence[Variable]) -> bool:
    """Whether variables may be those that blocks were made for, by their sizes."""
    for block in blocks:
        if max(block.positions) >= len(variables):
            return False
        sizes = [math.prod(variables[i].shape) for i in block.positions]
        if sum(sizes) != block.groups * block.rows * block.outputs:
            return False
    return True
