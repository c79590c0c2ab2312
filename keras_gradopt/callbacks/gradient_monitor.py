"""GradientMonitor: what the gradients of each layer say about a training."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.callbacks import Callback, Scalars
from keras_gradopt.objective import Objective
from keras_gradopt.ranges import POSITIVE, Range

logger = logging.getLogger(__name__)

Kind = Literal["non_finite", "exploding", "vanishing", "dead"]

_ADVICE: dict[Kind, str] = {
    "non_finite": (
        "Lower the learning rate, clip gradients by their global norm, and look for NaN in the "
        "data and for logarithms, roots and divisions of 0 in the loss."
    ),
    "exploding": (
        "Clip gradients by their global norm, lower the learning rate, take smaller initial "
        "weights (Glorot or He), or normalise the layers."
    ),
    "vanishing": (
        "Take ReLU or GELU for sigmoid or tanh, residual connections, batch or layer "
        "normalisation, or He or orthogonal initial weights."
    ),
    "dead": (
        "Begin with such a layer next to the output, which starves those below it: lower the "
        "learning rate, start its biases at 0, or take leaky ReLU or GELU."
    ),
}


class GradientMonitor(Callback):
    r"""Tells which layers learn: vanishing, exploding, NaN gradients, dead units.

    Use it when a training stands still or diverges and nobody knows which layer is to blame. On a
    fixed batch of training data it computes, for each layer with weights $w$ and gradient $g$,

    $$\|g\|, \quad \rho = \|g\| / \|w\|, \quad \|\Delta w\| / \|w\|,$$

    the last for the step just made, and the shares of zero entries and of units without gradient.
    A layer's gradients are *non-finite* when an entry is NaN or infinite (or a weight is),
    *exploding* when $\|g\|$ exceeds `exploding`, *vanishing* when $\rho$ is below `vanishing`
    times the largest $\rho$ of a later layer, and *dead* when at least the share `dead_share` of
    its units has gradient 0 in all weights, on the whole batch: a ReLU that never fires. The first
    of these that holds is reported.

    Units are the last axis of the weights, as Keras lays out dense, convolutional and
    normalisation layers; order is that of the model's variables. A measurement costs one gradient,
    not compiled, and one copy of the weights; nothing in the training changes by it. It comes
    after a step: a model that starts from zeros in its last layer gives no gradient before it.

    Args:
        x: Inputs of the batch, as `fit` takes them.
        y: Its targets; None where the model needs none.
        frequency: Measure every so many batches, at least 1, or `"epoch"`: at the first batch of
            each epoch.
        vanishing: Ratio to a later layer's $\rho$ below which a layer's is vanishing, in [0, 1].
            With Glorot's initial weights gradients of all layers are of one size, so 1e-4 is far
            from what is meant to be.
        exploding: Gradient norm of a layer above which it explodes, above 0. The norm is in units
            of the loss; 100 is far above the norms to which gradients are usually clipped.
        dead_share: Share of a layer's units, in (0, 1].
        log_dir: Folder for TensorBoard's scalars, which tensorboardX writes; None writes none.

    Attributes:
        findings: What was found, a list of `Finding`, with each measurement in which it held; the
            first of each layer and kind is logged as a warning as well.
        steps: The steps measured.
        history: Layer to gradient norms, one per measurement.
        update_ratios: Layer to $\|\Delta w\| / \|w\|$.
        zero_shares: Layer to the share of gradient entries that are 0.

    Example:
        >>> model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
        >>> monitor = GradientMonitor(x, y)
        >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
        >>> monitor.findings
        []
        >>> [len(norms) for norms in monitor.history.values()]
        [2, 2]

    References:
        Glorot, Bengio. Understanding the difficulty of training deep feedforward neural networks.
        AISTATS 2010, Section 4.2 (gradients of equal size in all layers). Pascanu, Mikolov,
        Bengio. On the difficulty of training recurrent neural networks. ICML 2013, Sections 2 and
        3. Lu, Shin, Su, Karniadakis. Dying ReLU and Initialization: Theory and Numerical Examples.
        Communications in Computational Physics 28, 2020. The thresholds are ours.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "vanishing": Range(0.0, 1.0, scale="log", usual="1e-4 is usual.").fixed(),
        "exploding": POSITIVE.fixed(),
        "dead_share": Range(0.0, 1.0, low_included=False, usual="0.9 is usual.").fixed(),
    }

    def __init__(
        self,
        x: Any,
        y: Any = None,
        frequency: int | Literal["epoch"] = "epoch",
        vanishing: float = 1e-4,
        exploding: float = 100.0,
        dead_share: float = 0.9,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if isinstance(frequency, str) and frequency != "epoch":
            raise ValueError(
                f"frequency must be a number of batches or 'epoch', received {frequency!r}."
            )
        if frequency != "epoch":
            frequency = positive_int("frequency", frequency)
        self.declare(
            x=x,
            y=y,
            frequency=frequency,
            vanishing=vanishing,
            exploding=exploding,
            dead_share=dead_share,
            log_dir=log_dir,
        )
        self.findings: list[Finding] = []
        self.steps: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.update_ratios: dict[str, list[float]] = {}
        self.zero_shares: dict[str, list[float]] = {}
        self._warned: set[tuple[str, Kind]] = set()
        self._before: list[np.ndarray] | None = None
        self._scalars = Scalars(log_dir)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Keeps the weights where a measurement is due, to see how far the step moves them."""
        due = batch == 0 if self.frequency == "epoch" else self.step % self.frequency == 0
        self._before = _arrays(self.model.trainable_variables) if due else None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Measures, judges, writes."""
        self.count(batch)
        if self._before is None:
            return
        before, self._before = self._before, None
        layers = self._measured(before)
        self.steps.append(self.step)
        for layer in layers:
            self.history.setdefault(layer.path, []).append(layer.norm)
            self.update_ratios.setdefault(layer.path, []).append(layer.update_ratio)
            self.zero_shares.setdefault(layer.path, []).append(layer.zero_share)
        for found in self._judged(layers):
            self.findings.append(found)
            if (found.layer, found.kind) not in self._warned:
                self._warned.add((found.layer, found.kind))
                logger.warning("%s", found)
        self._write(layers)

    def _measured(self, before: list[np.ndarray]) -> list[_Layer]:
        model = self.model
        data = self.x if self.y is None else (self.x, self.y)
        objective = Objective(model, data, loss_scale=model.optimizer.scale_loss(1.0))
        variables = model.trainable_variables
        _, gs = objective.value_and_grad([ops.cast(v.value, "float32") for v in variables])
        columns: dict[str, list[tuple]] = {}
        gradients, after = [_array(g) for g in gs], _arrays(variables)
        for v, w, g, old in zip(variables, after, gradients, before, strict=True):
            columns.setdefault(v.path.rpartition("/")[0] or v.path, []).append((w, g, old))
        return [_layer(path, *zip(*rows, strict=True)) for path, rows in columns.items()]

    def _judged(self, layers: list[_Layer]) -> list[Finding]:
        found, later = [], 0.0
        for layer in reversed(layers):
            kind, value, threshold = self._verdict(layer, later)
            if kind is not None:
                found.append(
                    Finding(
                        epoch=self.epoch,
                        step=self.step,
                        layer=layer.path,
                        kind=kind,
                        value=value,
                        threshold=threshold,
                        advice=_ADVICE[kind],
                    )
                )
            if math.isfinite(layer.relative_norm):
                later = max(later, layer.relative_norm)
        return found[::-1]

    def _verdict(self, layer: _Layer, later: float) -> tuple[Kind | None, float, float]:
        if layer.non_finite:
            return "non_finite", float(layer.non_finite), 0.0
        if layer.norm > self.exploding:
            return "exploding", layer.norm, self.exploding
        if layer.dead_share >= self.dead_share:
            return "dead", layer.dead_share, self.dead_share
        if layer.relative_norm < self.vanishing * later:
            return "vanishing", layer.relative_norm, self.vanishing * later
        return None, 0.0, 0.0

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file; a next `fit` writes another one, which TensorBoard joins."""
        self._scalars.close()

    def _write(self, layers: list[_Layer]) -> None:
        for layer in layers:
            values = {
                f"gradient_norm/{layer.path}": layer.norm,
                f"update_to_weight/{layer.path}": layer.update_ratio,
                f"zero_gradients/{layer.path}": layer.zero_share,
            }
            self._scalars.write(values, self.step)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong with the gradients of one layer.

    Attributes:
        epoch: From 0.
        step: Batches so far.
        layer: The layer's path.
        kind: "non_finite", "exploding", "vanishing" or "dead".
        value: What was measured: entries that are no finite numbers, the gradient's norm, its
            ratio to the weights' norm, or the share of dead units.
        threshold: What it was compared with.
        advice: What usually mends it.
    """

    epoch: int
    step: int
    layer: str
    kind: Kind
    value: float
    threshold: float
    advice: str

    def __str__(self) -> str:
        return (
            f"Epoch {self.epoch}, step {self.step}: the gradients of {self.layer!r} are "
            f"{self.kind.replace('_', '-')} ({self.value:.3g}, threshold {self.threshold:.3g}). "
            f"{self.advice}"
        )


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One layer's measurement."""

    path: str
    norm: float
    relative_norm: float
    update_ratio: float
    zero_share: float
    dead_share: float
    non_finite: int


def _layer(path: str, ws: tuple, gs: tuple, olds: tuple) -> _Layer:
    norm, weight_norm = _norm(gs), _norm(ws)
    moved = _norm([w - old for w, old in zip(ws, olds, strict=True)])
    entries = sum(g.size for g in gs)
    # Weights of norm 0 have no scale to compare with: a layer that starts at 0 is neither slow nor
    # a measure for others.
    return _Layer(
        path=path,
        norm=norm,
        relative_norm=norm / weight_norm if weight_norm else math.nan,
        update_ratio=moved / weight_norm if weight_norm else math.nan,
        zero_share=sum(int(np.sum(g == 0)) for g in gs) / entries,
        dead_share=_dead_share(gs),
        non_finite=sum(int(np.sum(~np.isfinite(a))) for a in (*ws, *gs)),
    )


def _dead_share(gs: tuple) -> float:
    """Share of units, the last axis, without gradient in any of the layer's variables."""
    units = gs[0].shape[-1] if gs[0].ndim else 1
    alive = np.zeros(units, bool)
    for g in gs:
        rows = g.reshape(-1, g.shape[-1] if g.ndim else 1)
        if rows.shape[1] == units:
            alive |= np.any(rows != 0, axis=0)
    return float(np.mean(~alive))


def _norm(arrays: Any) -> float:
    """In double precision: squares of small gradients leave the range of float32."""
    return math.sqrt(sum(float(np.sum(np.square(a, dtype="float64"))) for a in arrays))


def _arrays(variables: list) -> list[np.ndarray]:
    return [_array(v.value) for v in variables]


def _array(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")), copy=True)
