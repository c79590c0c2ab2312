"""Muon: momentum of matrices, made orthogonal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import Hyperparameters, is_number, positive_int
from keras_gradopt.gradient.adam import Adam
from keras_gradopt.groups import Group, check_used, checked_pattern, path_of
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import global_norm

Tensor = Any
Variable = Any

ADJUSTMENTS = ("match_rms_adamw", "original")
# Added to a matrix' norm, in units of the gradient, as Jordan does: a zero matrix stays zero.
_NORM_EPSILON = 1e-7
# Kernels of attention: (features, heads, size), where the other three-axis kernels of Keras have
# their outputs in the last axis only.
_SPLITS_HEADS = re.compile(r"(^|/)(query|key|value)/kernel")


class Muon(Optimizer):
    r"""Steps of equal length along all singular directions of a matrix; AdamW for the rest.

    Use it for the hidden layers of transformers and convolutional networks, where it needs fewer
    steps than AdamW and half of its memory; name the output layer in `exclude_layers`. With
    gradient $G_t$ of a matrix, momentum $M_t$, rate $\eta$ and scale $s$ (see `adjust`):

    $$M_t = \mu M_{t-1} + (1-\mu) G_t, \quad N_t = \mu M_t + (1-\mu) G_t$$
    $$X_0 = N_t / \|N_t\|_F, \quad
      X_{k+1} = a X_k + b X_k X_k^\top X_k + c X_k X_k^\top X_k X_k^\top X_k$$
    $$W_t = W_{t-1} - \eta s X_5$$

    The iteration brings all singular values near 1. A kernel with more axes is the matrix of all
    inputs by its last axis; kernels of attention's query, key and value that of the first axis by
    all outputs. Vectors, scalars and what is excluded take the steps of `AdamW`.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule. With `adjust` as it is,
            that of AdamW fits.
        adam_beta_1: Decay of AdamW's first moment, in [0, 1).
        adam_beta_2: Decay of AdamW's second moment, in [0, 1).
        adam_weight_decay: Decay of what AdamW moves, at least 0; None is `weight_decay`.
        epsilon: Added to AdamW's root, above 0, in units of the gradient.
        weight_decay: Decoupled decay per unit of learning rate, at least 0; None is none.
        exclude_layers: Regular expressions, searched in the variables' paths: what they find is
            left to AdamW, such as `["logits"]`.
        exclude_embeddings: Whether variables with "embedding" in their path are left to AdamW.
        muon_a: Coefficient $a$ of the iteration.
        muon_b: Coefficient $b$.
        muon_c: Coefficient $c$.
        adam_lr_ratio: Factor of the learning rate in AdamW's steps, at least 0.
        momentum: $\mu$, in [0, 1).
        ns_steps: Number of iterations, at least 1.
        nesterov: Whether to orthogonalize $N_t$; else $M_t$.
        rms_rate: Root mean square of a matrix' step per unit of learning rate, at least 0, where
            `adjust` is `"match_rms_adamw"`: $s$ is it times the root of the longer side. None is
            $s = 1$.
        adjust: `"match_rms_adamw"`, or `"original"`: $s = \sqrt{\max(1, out / in)}$, which takes
            rates near 0.02, and then an `adam_lr_ratio` below 1.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([[2.0, 0.0], [0.0, 1.0]])
        >>> optimizer = Muon(learning_rate=0.1, adjust="original", weight_decay=None)
        >>> optimizer.apply([w.value * 1.0], [w])  # each singular value falls by about the rate
        >>> show(w)
        [[1.9311, 0], [0, 0.8886]]

    References:
        Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein. Muon: An optimizer for hidden layers
        in neural networks. 2024, with the coefficients given there.
        Liu, Su, Yao, Jiang, Lai, Du, et al. Muon is Scalable for LLM Training. 2025, equations 3
        and 4 (weight decay, `"match_rms_adamw"`).
        The iteration runs in float32, where Jordan and torch take bfloat16. Keras leaves kernels
        with more than two axes to AdamW. optax corrects both terms of $N_t$ for their start at
        zero, each by a step of its own, so that its first directions differ with Nesterov.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "adam_beta_1": DECAY_RATE,
        "adam_beta_2": DECAY_RATE,
        "adam_weight_decay": NON_NEGATIVE,
        "epsilon": EPSILON,
        "adam_lr_ratio": NON_NEGATIVE,
        "momentum": DECAY_RATE,
        "rms_rate": NON_NEGATIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        adam_beta_1: Any = 0.9,
        adam_beta_2: Any = 0.999,
        adam_weight_decay: Any = None,
        epsilon: Any = 1e-7,
        weight_decay: Any = 0.004,
        exclude_layers: Sequence[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.7750,
        muon_c: float = 2.0315,
        adam_lr_ratio: Any = 1.0,
        momentum: Any = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: Any = 0.2,
        adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        **kwargs: Any,
    ) -> None:
        if weight_decay is None and adam_weight_decay is not None:
            # The base asks who is spared from decay only where there is one.
            weight_decay = 0.0
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.declare(
            adam_beta_1=adam_beta_1,
            adam_beta_2=adam_beta_2,
            adam_weight_decay=adam_weight_decay,
            epsilon=epsilon,
            adam_lr_ratio=adam_lr_ratio,
            momentum=momentum,
            rms_rate=rms_rate,
        )
        self.declare(
            exclude_layers=_patterns(exclude_layers),
            exclude_embeddings=exclude_embeddings,
            muon_a=_coefficient("muon_a", muon_a),
            muon_b=_coefficient("muon_b", muon_b),
            muon_c=_coefficient("muon_c", muon_c),
            ns_steps=positive_int("ns_steps", ns_steps),
            nesterov=nesterov,
            adjust=_adjustment(adjust),
        )
        self._adam = Adam()

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state for these variables; later steps take these and no others.

        Args:
            variables: The model's trainable variables.

        Raises:
            ValueError: There are none, or a pattern of `exclude_layers` is found in no path.
        """
        variables = list(variables)
        if variables:
            check_used("exclude_layers", self.exclude_layers, variables)
        super().build(variables)

    def _is_excluded(self, path: str) -> bool:
        if self.exclude_embeddings and "embedding" in path.lower():
            return True
        return any(re.search(pattern, path) for pattern in self.exclude_layers)

    def slots_for(self, variable: Variable) -> Sequence[Slot]:
        """State beside one variable: both moments where its path leaves it to AdamW."""
        shape, path = tuple(variable.shape), path_of(variable)
        if self._is_excluded(path):
            return self._adam.slots(shape)
        if len(shape) == 3 and _SPLITS_HEADS.search(path):
            return _momentum(shape, inputs=1)
        return self.slots(shape)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """A matrix' momentum, in the matrix' shape; both moments of everything else."""
        if len(shape) < 2:
            return self._adam.slots(shape)
        return _momentum(shape, inputs=len(shape) - 1)

    def move(
        self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters, member: Group
    ) -> tuple:
        """Weight decay of either half, then the rule, for one variable."""
        own_decay = getattr(h, "adam_weight_decay", None)
        if len(slots) == 2 and own_decay is not None:
            h = h.replace(weight_decay=own_decay)
        return super().move(w, g, *slots, h=h, member=member)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable: AdamW's beside two slots, Muon's beside one."""
        if len(slots) == 2:
            h = h.replace(
                learning_rate=h.learning_rate * h.adam_lr_ratio,
                beta_1=h.adam_beta_1,
                beta_2=h.adam_beta_2,
            )
            return self._adam.update(w, g, *slots, h=h)
        (m,) = slots
        g = ops.reshape(g, m.shape)
        m = h.momentum * m + (1 - h.momentum) * g
        n = h.momentum * m + (1 - h.momentum) * g if self.nesterov else m
        step = h.learning_rate * self._scale(tuple(m.shape), h) * self._orthogonalized(n)
        return w - ops.reshape(step, w.shape), m

    def _scale(self, shape: tuple[int, ...], h: Hyperparameters) -> Any:
        inputs, outputs = shape
        if self.adjust == "original":
            return math.sqrt(max(1.0, outputs / max(1, inputs)))
        if self.rms_rate is None:
            return 1.0
        return h.rms_rate * math.sqrt(max(inputs, outputs))

    def _orthogonalized(self, n: Tensor) -> Tensor:
        # The smaller of both products of a matrix with itself costs less.
        is_tall = n.shape[0] > n.shape[1]
        x = ops.transpose(n) if is_tall else n
        x = x / (global_norm([x]) + _NORM_EPSILON)
        for _ in range(self.ns_steps):
            square = ops.matmul(x, ops.transpose(x))
            odd = self.muon_b * square + self.muon_c * ops.matmul(square, square)
            x = self.muon_a * x + ops.matmul(odd, x)
        return ops.transpose(x) if is_tall else x


def _momentum(shape: tuple[int, ...], inputs: int) -> tuple[Slot]:
    """The momentum of a kernel as a matrix: its first axes are inputs, the rest outputs."""
    return (Slot("momentum", (math.prod(shape[:inputs]), math.prod(shape[inputs:]))),)


def _patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"exclude_layers must be a list, received {value!r}: use [{value!r}].")
    return tuple(checked_pattern("exclude_layers", pattern) for pattern in value or ())


def _coefficient(name: str, value: Any) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, received {value!r}.")
    return float(value)


def _adjustment(value: Any) -> str:
    if value not in ADJUSTMENTS:
        raise ValueError(f"adjust must be one of {', '.join(ADJUSTMENTS)}, received {value!r}.")
    return str(value)
