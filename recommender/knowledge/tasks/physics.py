"""Networks that must meet a differential equation, validated against its exact solution.

A jet is a tensor of shape (rows, 1 + 2 d, units): values, their first and their unmixed second
derivatives by each of the d coordinates. Layers carry it forward in plain `keras.ops`, so losses
of derivatives train on every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.losses import squared_error
from recommender.knowledge.tasks.reading import Array

register = keras.saving.register_keras_serializable(package="gradopt_tasks")

# What a row asks for, in the last column of x.
RESIDUAL, VALUE, SLOPE = 0.0, 1.0, 2.0
VISCOSITY = 0.02
WAVES = ((1, 1.0), (3, 0.4))  # wave number in units of pi, and amplitude
DAMPING, FREQUENCY = 1.5, 12.0


@register
class JetInput(layers.Layer):
    """The jet of the coordinates themselves.

    Args:
        coordinates: How many leading columns of the input are coordinates.
    """

    def __init__(self, coordinates: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.coordinates = coordinates

    def call(self, x: Any) -> Any:
        """(rows, columns) -> (rows, 1 + 2 d, d)."""
        d = self.coordinates
        values = x[:, None, :d]
        nothing = ops.zeros_like(values)
        first = nothing + ops.convert_to_tensor(np.eye(d, dtype=np.float32))
        return ops.concatenate([values, first, ops.zeros_like(first)], axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        """As `call` says."""
        return (shape[0], 1 + 2 * self.coordinates, self.coordinates)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {**super().get_config(), "coordinates": self.coordinates}


@register
class JetDense(layers.Layer):
    """A dense layer with tanh, or without activation, on a jet.

    Args:
        units: Width.
        linear: Whether to leave the activation out.
    """

    def __init__(self, units: int, *, linear: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.units = units
        self.linear = linear

    def build(self, shape: Any) -> None:
        """Glorot-uniform kernel, zero bias."""
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, jet: Any) -> Any:
        """Chain rule: a, a' z_i, a' z_ii + a'' z_i^2."""
        d = (jet.shape[1] - 1) // 2
        z = ops.matmul(jet, self.kernel)
        value, first, second = z[:, :1] + self.bias, z[:, 1 : d + 1], z[:, d + 1 :]
        if not self.linear:
            value = ops.tanh(value)
            slope = 1.0 - value * value
            second = slope * second - 2.0 * value * slope * first * first
            first = slope * first
        return ops.concatenate([value, first, second], axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        """The jet with another width."""
        return (*shape[:2], self.units)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {**super().get_config(), "units": self.units, "linear": self.linear}


# Each gives, from the columns of the network's jet and the coordinates, the equation's residual,
# the solution u, and the slope that some rows prescribe.
Terms = tuple[Any, Any, Any]


def _burgers(jet: list[Any], _: Any) -> Terms:
    u, u_t, u_x, _, u_xx = jet
    return u_t + u * u_x - VISCOSITY * u_xx, u, u_t


def _poisson(jet: list[Any], x: Any) -> Terms:
    u, u_a, _, u_aa, u_bb = jet
    a, b = np.pi * x[:, :1], np.pi * x[:, 1:2]
    source = 5.0 * ops.sin(a) * ops.sin(2.0 * b) + ops.sin(2.0 * a) * ops.sin(b) * 2.5
    return (u_aa + u_bb) / np.pi**2 + source, u, u_a


def _wave(jet: list[Any], _: Any) -> Terms:
    u, u_t, _, u_tt, u_xx = jet
    return (u_tt - u_xx) / np.pi**2, u, u_t / np.pi


def _oscillator(jet: list[Any], x: Any) -> Terms:
    """With u = 1 + t^2 n, u(0) = 1 and u'(0) = 0 hold whatever the network n gives."""
    n, n_t, n_tt = jet
    t = x[:, :1]
    u = 1.0 + t * t * n
    u_t = 2.0 * t * n + t * t * n_t
    u_tt = 2.0 * n + 4.0 * t * n_t + t * t * n_tt
    return u_tt / FREQUENCY**2 + 2.0 * DAMPING / FREQUENCY**2 * u_t + u, u, u_t


EQUATIONS: dict[str, Callable[[list[Any], Any], Terms]] = {
    "burgers": _burgers,
    "poisson": _poisson,
    "wave": _wave,
    "oscillator": _oscillator,
}


@register
class EquationTerm(layers.Layer):
    """What each row asks for: the residual, the solution or a slope.

    Args:
        equation: A name in `EQUATIONS`.
    """

    def __init__(self, equation: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.equation = equation

    def call(self, jet: Any, x: Any) -> Any:
        """(rows, 1 + 2 d, 1) and (rows, d + 1) -> (rows, 1)."""
        columns = [jet[:, k] for k in range(jet.shape[1])]
        residual, value, slope = EQUATIONS[self.equation](columns, x)
        kind = x[:, -1:]
        return ops.where(kind == RESIDUAL, residual, ops.where(kind == VALUE, value, slope))

    def compute_output_shape(self, jet_shape: Any, x_shape: Any) -> Any:
        """One number a row."""
        return (jet_shape[0], 1)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {**super().get_config(), "equation": self.equation}


def _network(equation: str, coordinates: int, width: int, depth: int) -> keras.Model:
    x = keras.Input((coordinates + 1,))
    jet = JetInput(coordinates)(x)
    for _ in range(depth):
        jet = JetDense(width)(jet)
    jet = JetDense(1, linear=True)(jet)
    return keras.Model(x, EquationTerm(equation)(jet, x))


def _rows(kind: float, *columns: Array) -> Array:
    return np.stack([*columns, np.full(len(columns[0]), kind)], axis=1)


def _data(parts: list[tuple[Array, Array | float]], exact: Callable[..., Array]) -> Data:
    """Training rows with their targets; 500 values of the solution to validate, drawn like them."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rows for rows, _ in parts])
    y = np.concatenate([np.broadcast_to(target, len(rows)) for rows, target in parts])
    inside = parts[0][0][:, :-1]
    low, high = inside.min(axis=0), inside.max(axis=0)
    points = [rng.uniform(*limits, 500) for limits in zip(low, high, strict=True)]
    x_val, y_val = _rows(VALUE, *points), exact(*points)
    one, two, three, four = (
        np.asarray(v, np.float32) for v in (x, y[:, None], x_val, y_val[:, None])
    )
    return one, two, three, four


def _burgers_exact(t: Array, x: Array) -> Array:
    """Cole-Hopf: u from u(0, x) = -sin(pi x), the integral by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    s = x[:, None] - np.sqrt(4 * VISCOSITY * np.maximum(t, 1e-9))[:, None] * nodes
    exponent = -np.cos(np.pi * s) / (2 * np.pi * VISCOSITY)
    density = np.exp(exponent - exponent.max(axis=1, keepdims=True)) * weights
    return -(np.sin(np.pi * s) * density).sum(axis=1) / density.sum(axis=1)


def _burgers_data() -> Data:
    rng = np.random.default_rng(21)
    begin = rng.uniform(-1, 1, 192)
    walls = _rows(VALUE, rng.random(96), rng.choice([-1.0, 1.0], 96))
    return _data(
        [
            (_rows(RESIDUAL, rng.random(1024), rng.uniform(-1, 1, 1024)), 0.0),
            (_rows(VALUE, np.zeros(192), begin), -np.sin(np.pi * begin)),
            (walls, 0.0),
        ],
        _burgers_exact,
    )


def _poisson_data() -> Data:
    rng = np.random.default_rng(22)
    along, side = rng.random(256), rng.integers(0, 2, 256).astype(float)
    level = np.arange(256) % 2 == 0
    edge = np.where(level, along, side), np.where(level, side, along)
    return _data(
        [(_rows(RESIDUAL, *rng.random((2, 768))), 0.0), (_rows(VALUE, *edge), 0.0)],
        lambda a, b: (
            np.sin(np.pi * a) * np.sin(2 * np.pi * b)
            + 0.5 * np.sin(2 * np.pi * a) * np.sin(np.pi * b)
        ),
    )


def _wave_exact(t: Array, x: Array) -> Array:
    parts = [a * np.cos(k * np.pi * t) * np.sin(k * np.pi * x) for k, a in WAVES]
    return np.sum(parts, axis=0)


def _wave_data() -> Data:
    rng = np.random.default_rng(23)
    begin, still = rng.random((2, 160))
    zero = np.zeros(160)
    walls = _rows(VALUE, rng.random(160), rng.integers(0, 2, 160).astype(float))
    return _data(
        [
            (_rows(RESIDUAL, *rng.random((2, 800))), 0.0),
            (_rows(VALUE, zero, begin), _wave_exact(zero, begin)),
            (_rows(SLOPE, zero, still), 0.0),
            (walls, 0.0),
        ],
        _wave_exact,
    )


def _oscillator_exact(t: Array) -> Array:
    w = np.sqrt(FREQUENCY**2 - DAMPING**2)
    return np.exp(-DAMPING * t) * (np.cos(w * t) + DAMPING / w * np.sin(w * t))


def _oscillator_data() -> Data:
    times = np.linspace(0, 1, 320)
    return _data([(_rows(RESIDUAL, times), 0.0)], _oscillator_exact)


solved = partial(
    MeasuredTask, loss=squared_error, architecture="physics", licence="none needed (generated)"
)

TASKS = (
    solved(
        name="burgers_front",
        summary="Viscous Burgers equation with a steepening front, by a tanh network",
        load=_burgers_data,
        build=partial(_network, "burgers", 2, 20, 3),
        batch_size=32,
        epochs=160,
        source="burgers",
    ),
    solved(
        name="poisson_square",
        summary="Poisson equation on a square with a manufactured solution",
        load=_poisson_data,
        build=partial(_network, "poisson", 2, 24, 2),
        batch_size=64,
        epochs=500,
        source="poisson",
    ),
    solved(
        name="wave_string",
        summary="Wave equation of a string with two harmonics, initial and wall values as rows",
        load=_wave_data,
        build=partial(_network, "wave", 2, 24, 3),
        batch_size=64,
        epochs=320,
        source="wave_equation",
    ),
    solved(
        name="oscillator_damped",
        summary="Damped oscillator over two periods, initial conditions built in",
        load=_oscillator_data,
        build=partial(_network, "oscillator", 1, 24, 2),
        batch_size=32,
        epochs=800,
        source="oscillator",
    ),
)
