"""DataLandscape: the loss of a model on all its data as a function of one vector, the weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypedDict

import keras
import numpy as np
from keras import ops

from keras_gradopt import backend
from keras_gradopt.curvature.data import Minibatches
from keras_gradopt.curvature.smoothness import leaves, once_differentiable, require_symmetry
from keras_gradopt.landscape import Landscape
from keras_gradopt.objective import Objective

Tensor = Any
Curvature = Literal["hessian", "gauss_newton", "fisher"]
# The precision of one number, relative to it.
_HALF = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
# What a product with each of them costs, in gradients.
_COSTS = {"hessian": 3.0, "gauss_newton": 2.0, "fisher": 2.0}


class Options(TypedDict, total=False):
    """How the loss is taken; the arguments of `DataLandscape` by these names."""

    sample_weight: Any
    batch_size: int
    training: bool
    variables: Any
    curvature: Curvature


class DataLandscape:
    r"""The loss of a model on data as a function of its weights, flat in one vector.

    Make one to ask several questions about the same model and data: the loss, its gradient and its
    products are compiled once and serve all functions of `keras_gradopt.curvature`, which take it
    in place of a model. With minibatches $B_i$ of $n_i$ rows the loss is

    $$L(w) = \sum_i \frac{n_i}{\sum_j n_j}\, L_{B_i}(w),$$

    which is what `evaluate` measures and, for losses that are means over rows, does not depend on
    the minibatches. Gradients and products are averaged alike.

    Args:
        model: The model; compiled and built.
        x: Inputs: an array, a list or dict of arrays, or a dataset of minibatches `(x, y)` or
            `(x, y, sample_weight)`, which is read into host memory once.
        y: Targets; None where the model needs none, and with a dataset.
        sample_weight: Weights of the rows; None is 1 each.
        batch_size: Rows to a minibatch of arrays, at least 1. It bounds the memory.
        training: False takes the loss of `evaluate`: dropout off, BatchNormalization by its moving
            statistics. True takes the loss that `fit` differentiates: each minibatch's own
            statistics, and dropout's masks drawn once and held still, the same for each minibatch.
            With BatchNormalization the two have different curvature: take True to judge the
            stability of a training, False to judge the model that comes out of it.
        variables: Which trainable variables may move, the rest held still: a regular expression
            that is searched in their paths, a list of such or of variables; None are all.
        curvature: The matrix that is meant: `"hessian"`, `"gauss_newton"` (the generalised
            Gauss-Newton matrix), or `"fisher"` (the Fisher information of the model's own
            predictions). The last two have no negative eigenvalues.

    Attributes:
        size: Entries of the vector.
        position: The weights, float64, shape (size,).
        variables: The variables that the vector holds, in order.
        evaluations: What was computed so far, in gradients over all data: a value counts 1/3, a
            Hessian-vector product 3.

    Raises:
        ValueError: The model is not compiled or not built, lengths differ, or no variable fits.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> landscape = keras_gradopt.curvature.DataLandscape(model, x, y)
        >>> g = landscape.gradient()
        >>> lower = landscape.value(landscape.position - 0.01 * g)
        >>> lower < landscape.value()
        True
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        batch_size: int = 256,
        training: bool = False,
        variables: Any = None,
        curvature: Curvature = "hessian",
    ) -> None:
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"model must be a keras.Model or a DataLandscape, received {type(model).__name__}."
            )
        if not model.compiled:
            raise ValueError(
                f"{model.name!r} has no loss yet: call model.compile(optimizer=..., loss=...) "
                "first."
            )
        if not model.built:
            raise ValueError(
                f"{model.name!r} has no variables yet. Give it a keras.Input, or call it on a "
                "batch first."
            )
        if curvature not in _COSTS:
            raise ValueError(
                f"curvature must be one of {', '.join(map(repr, _COSTS))}, received {curvature!r}."
            )
        self.model = model
        self.curvature: Curvature = curvature
        self.training = training
        self.data = Minibatches(x, y, sample_weight, batch_size)
        self.variables = _chosen(model, variables)
        self.shapes = [tuple(v.shape) for v in self.variables]
        self.size = sum(int(np.prod(shape)) for shape in self.shapes)
        positions = {id(v): i for i, v in enumerate(model.trainable_variables)}
        self._moving = [positions[id(v)] for v in self.variables]
        double = any(v.dtype == "float64" for v in self.variables)
        self.dtype = "float64" if double else "float32"
        # Some roundings of the vectors' precision, or one of a half-precision layer's.
        halves = {layer.compute_dtype for layer in leaves(model)} & set(_HALF)
        coarsest = max((_HALF[dtype] for dtype in halves), default=0.0)
        self._precision = max(16.0 * float(np.finfo(self.dtype).eps), coarsest)
        self.evaluations = 0.0
        self._random_state = backend.random_state()
        self._compiled: dict[str, Callable] = {}
        self._is_checked = False
        self.refresh()

    def refresh(self) -> None:
        """Takes the weights and the state that the model has now."""
        model = self.model
        self._state = tuple(
            [ops.copy(v) for v in backend.frozen(variables)]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.metrics_variables,
            )
        )
        self.position = self.flat([ops.convert_to_numpy(_float(v.value)) for v in self.variables])
        self._here = self._tensor(self.position)

    def in_groups(self, groups: int) -> DataLandscape:
        """The same landscape with its data in at least so many minibatches, for noise.

        Args:
            groups: At least 1.
        """
        other = copy.copy(self)
        other.data = self.data.regrouped(groups)
        return other

    # --- vectors ---

    def flat(self, arrays: Sequence[Any]) -> np.ndarray:
        """One float64 vector from an array for each variable."""
        return np.concatenate([np.asarray(a, "float64").reshape(-1) for a in arrays])

    def arrays(self, vector: np.ndarray) -> list[np.ndarray]:
        """An array for each variable, of its shape, from a vector."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        pieces = zip(np.split(vector, ends), self.shapes, strict=True)
        return [piece.reshape(shape) for piece, shape in pieces]

    def rounding(self, scale: float) -> float:
        """The error that the model's precision leaves in a product of norm `scale`."""
        return self._precision * abs(scale)

    # --- the function and its derivatives ---

    def value(self, w: np.ndarray | None = None) -> float:
        """The loss at `w`; None are the present weights. It may be infinite or NaN elsewhere."""
        self.evaluations += 1 / 3
        losses = [self._call("value", i, w) for i in range(len(self.data))]
        found = float(np.dot(self._shares, [float(ops.convert_to_numpy(v)) for v in losses]))
        if w is None and not np.isfinite(found):
            raise ValueError(_not_finite(self, found))
        return found

    def gradient(self, w: np.ndarray | None = None) -> np.ndarray:
        """The loss' gradient at `w`, shape (size,); None are the present weights."""
        self.evaluations += 1.0
        total = np.zeros(self.size)
        for share, g in zip(self._shares, self._gradients(w), strict=True):
            total += share * g
        return self._finite(total, "gradient")

    def gradients(self) -> Iterator[np.ndarray]:
        """The gradient of each minibatch at the present weights, in order."""
        self.evaluations += 1.0
        yield from self._gradients(None)

    def product(self, v: np.ndarray) -> np.ndarray:
        """The curvature matrix at the present weights times `v`, shape (size,).

        The first product with a Hessian takes two more, to see that it is symmetric.
        """
        if self.curvature == "hessian" and not self._is_checked:
            require_symmetry(self, self._multiplied)
            self._is_checked = True
        return self._multiplied(v)

    def _multiplied(self, v: np.ndarray) -> np.ndarray:
        self.evaluations += _COSTS[self.curvature]
        if self.curvature != "hessian" and self.curvature not in self._compiled:
            self.value()  # lets Keras build the losses, which these matrices look into
        vector, total = self._tensor(v), np.zeros(self.size)
        with once_differentiable(self):
            for i, share in enumerate(self._shares):
                total += share * _host(self._call(self.curvature, i, None, vector))
        return self._finite(total, "product of its curvature with a vector")

    def linear_operator(self) -> Any:
        """The curvature matrix as a `scipy.sparse.linalg.LinearOperator`, for SciPy's solvers."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            (self.size, self.size), matvec=self.product, rmatvec=self.product, dtype="float64"
        )

    @property
    def _shares(self) -> list[float]:
        return [size / self.data.rows for size in self.data.sizes]

    def _gradients(self, w: np.ndarray | None) -> Iterator[np.ndarray]:
        for i in range(len(self.data)):
            yield _host(self._call("gradient", i, w))

    def _call(self, name: str, i: int, w: np.ndarray | None, *vector: Tensor) -> Tensor:
        if name not in self._compiled:
            f = getattr(self, f"_{name}")
            self._compiled[name] = f if self.model.run_eagerly else backend.compiled(f)
        here = self._here if w is None else self._tensor(w)
        # Torch's random state is the process'; the others' lies in the model's variables.
        with backend.replayed(self._random_state):
            return self._compiled[name](here, self._state, self.data[i], *vector)

    def _tensor(self, vector: np.ndarray) -> Tensor:
        return ops.convert_to_tensor(np.asarray(vector, self.dtype))

    def _finite(self, total: np.ndarray, what: str) -> np.ndarray:
        if np.all(np.isfinite(total)):
            return total
        self.value()  # says so if the loss itself is no number
        parts = zip(self.variables, self.arrays(total), strict=True)
        where = [v.path for v, part in parts if not np.all(np.isfinite(part))]
        raise ValueError(
            f"The loss of {self.model.name!r} is finite, but its {what} is not, in {where}. Look "
            "for roots, norms, logarithms and divisions at 0 in the layers and the loss: their "
            "derivatives are infinite there. An epsilon inside mends it."
        )

    # --- what is compiled ---

    def _at(self, state: tuple, data: tuple) -> Landscape:
        trainable, rest, metrics = state
        objective = Objective(self.model, data, trainable, rest, metrics, training=self.training)
        objective.over(self.variables)
        return Landscape(objective, [trainable[i] for i in self._moving])

    def _value(self, w: Tensor, state: tuple, data: tuple) -> Tensor:
        return self._at(state, data).value(w)

    def _gradient(self, w: Tensor, state: tuple, data: tuple) -> Tensor:
        return self._at(state, data).value_and_grad(w)[1]

    def _hessian(self, w: Tensor, state: tuple, data: tuple, v: Tensor) -> Tensor:
        return self._at(state, data).hessian_at(w)(v)

    def _gauss_newton(self, w: Tensor, state: tuple, data: tuple, v: Tensor) -> Tensor:
        return self._at(state, data).gauss_newton_at(w)(v)

    def _fisher(self, w: Tensor, state: tuple, data: tuple, v: Tensor) -> Tensor:
        return self._at(state, data).fisher_at(w, "exact", None)(v)


def landscape_of(model: Any, x: Any, y: Any, options: Any) -> DataLandscape:
    """The landscape that a function was asked about: made of a model and data, or given.

    Args:
        model: A model, or a `DataLandscape`, which brings its data and options.
        x: Inputs; None with a landscape.
        y: Targets; None with a landscape.
        options: `Options`.
    """
    if not isinstance(model, DataLandscape):
        return DataLandscape(model, x, y, **options)
    if x is not None or y is not None or options:
        given = [name for name, value in (("x", x), ("y", y)) if value is not None]
        left_out = ", ".join([*given, *options])
        raise ValueError(f"A DataLandscape brings its data and options; leave out {left_out}.")
    return model


def watched(product: Callable, target: int | None, *, progress: bool) -> Callable:
    """A product that shows how many of them were done.

    Args:
        product: From a vector to a vector.
        target: How many there will be; None where nobody knows.
        progress: Whether to show it at all.
    """
    if not progress:
        return product
    bar = keras.utils.Progbar(target, unit_name="product")
    done = [0]

    def counted(v: np.ndarray) -> np.ndarray:
        found: np.ndarray = product(v)
        done[0] += 1
        bar.update(done[0])
        return found

    return counted


def _chosen(model: keras.Model, variables: Any) -> list[Any]:
    present = list(model.trainable_variables)
    if variables is not None:
        wanted = variables if isinstance(variables, list | tuple) else [variables]
        present = [v for v in present if any(_is_meant(v, one) for one in wanted)]
    if not present:
        raise ValueError(
            f"variables={variables!r} fits none of the trainable variables of {model.name!r}: "
            f"{[v.path for v in model.trainable_variables]}."
        )
    return present


def _is_meant(variable: Any, one: Any) -> bool:
    return bool(re.search(one, variable.path)) if isinstance(one, str) else variable is one


def _float(tensor: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float64" if dtype == "float64" else "float32")


def _host(tensor: Tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def _not_finite(landscape: DataLandscape, value: float) -> str:
    bad = [
        v.path
        for v, w in zip(landscape.variables, landscape.arrays(landscape.position), strict=True)
        if not np.all(np.isfinite(w))
    ]
    where = f" The weights {bad} hold NaN or infinity already." if bad else ""
    return (
        f"The loss of {landscape.model.name!r} is {value} at its present weights.{where} Look for "
        "NaN in the data, or begin from weights at which the loss is a number."
    )
