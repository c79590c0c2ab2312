"""FullPass: the gradient over a whole dataset, for rules that ask for more than a minibatch's."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops
from keras.src.trainers.data_adapters import data_adapter_utils, get_data_adapter

from keras_gradopt import backend
from keras_gradopt.objective import Objective
from keras_gradopt.optimizer import compute_dtype
from keras_gradopt.tensors import all_finite

Tensor = Any
# What Keras takes where no batch size is given.
_BATCH_SIZE = 32


class FullPass:
    """Computes a bound model's gradient over a dataset, whenever its optimizer is due for it.

    It runs between steps, on the host, as a loop over minibatches of one compiled function. The
    gradient is that of the mean loss over the examples: the mean of minibatches' gradients,
    weighted by their sizes; with a loss that sums (`reduction="sum"`) all minibatches count alike,
    with `"mean_with_sample_weight"` by their sample weights. Everything is as in training: layers
    run with `training=True`, so that BatchNorm takes each minibatch's statistics (its moving ones
    stay as they are), and dropout draws masks for each minibatch.

    Args:
        model: The model that was bound.
        dataset: (x,), (x, y) or (x, y, sample_weight) of arrays, a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a torch `DataLoader` or a grain dataset: what `fit` trains on. None
            where there is none.
        find: From the model's optimizer to the rule that needs the dataset, or None.
        loss_scale: From the model's optimizer to what it multiplies the loss with.

    Raises:
        ValueError: `dataset` can be iterated once only, never ends, or is no dataset.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Any,
        find: Callable[[Any], Any],
        loss_scale: Callable[[Any], Any],
    ) -> None:
        _check(dataset)
        self._model, self._dataset = model, dataset
        self._find, self._loss_scale = find, loss_scale
        self._batch_size = _BATCH_SIZE
        # The compiled function, and the compilation of the model that it belongs to.
        self._function: Callable | None = None
        self._compilation: Any = None

    @property
    def rule(self) -> Any:
        """The model's optimizer, or the one inside it, that needs the dataset; None without one."""
        return self._find(self._model.optimizer)

    def check_dataset(self) -> None:
        """Raises where the optimizer needs a dataset and there is none.

        Raises:
            RuntimeError: The message says how to bind.
        """
        if self._dataset is None and self.rule is not None:
            raise RuntimeError(
                f"{type(self.rule).__name__} needs the gradient over the whole training data, and "
                "the model was bound without it. Call keras_gradopt.bind(model, dataset=(x, y)), "
                "with a third array where `fit` gets sample weights, or with a PyDataset, "
                "tf.data.Dataset or DataLoader in place of the arrays."
            )

    def prepare(self, batch_size: int | None, weights: dict[str, Any]) -> None:
        """Before a fit: checks that the pass can be over the data that `fit` gets.

        Args:
            batch_size: What `fit` gets as batch_size.
            weights: Its sample_weight and class_weight.

        Raises:
            RuntimeError: There is no dataset.
            ValueError: Examples are weighted in `fit` and not in the dataset.
        """
        self.check_dataset()
        unweighted = isinstance(self._dataset, tuple) and len(self._dataset) < 3
        given = [name for name, value in weights.items() if value is not None]
        if (unweighted and given) or weights["class_weight"] is not None:
            raise ValueError(
                f"fit got {' and '.join(given)}, which the dataset of bind does not have: the full "
                "gradient would be that of another loss. Give the weight of each example to both: "
                "bind(model, dataset=(x, y, sample_weight)) and fit(x, y, "
                "sample_weight=sample_weight)."
            )
        self._batch_size = int(batch_size or _BATCH_SIZE)

    def prepare_batch(self, x: Any) -> None:
        """Before a step on one minibatch: takes the size of its minibatches, and what is due."""
        self.check_dataset()
        self._batch_size = _size(x)
        self.run_if_due()

    def run_if_due(self) -> int:
        """Runs now, if the optimizer is due; returns the steps until the next pass."""
        rule = self.rule
        if rule.built and rule.steps_to_pass() > 0:
            return int(rule.steps_to_pass())
        gs, minibatches = self.gradient()
        is_finite = bool(all_finite(gs))
        if not is_finite:
            warnings.warn(
                f"The gradient over the whole dataset is not finite. {type(rule).__name__} goes on "
                "with the gradients of minibatches until its next full pass. Look for values in "
                "the dataset that are not finite, or lower the learning rate.",
                stacklevel=2,
            )
        with backend.no_gradient():
            rule.take_full_gradient(self._model.trainable_variables, gs, minibatches, is_finite)
        return max(1, int(rule.steps_to_pass()))

    def gradient(self) -> tuple[list[Tensor], int]:
        """The gradients at the present weights, of their shapes, and the number of minibatches."""
        model, sums, minibatches, total = self._model, [], 0, 0.0
        for data in self._minibatches():
            if not minibatches:
                # Does nothing but before the first step of a model that is not built.
                model._symbolic_build(data_batch=data)
                variables = model.trainable_variables
                held = backend.frozen(variables), backend.frozen(model.metrics_variables)
                sums = [ops.zeros(v.shape, compute_dtype(v)) for v in variables]
            share = _share(model, data)
            sums = self._added(sums, held, data, share)
            minibatches, total = minibatches + 1, total + share
        if total <= 0:
            raise ValueError(
                f"The dataset of bind gave {minibatches} minibatches of a total weight of {total}: "
                "a full pass needs at least one example of positive weight."
            )
        return [s / ops.cast(total, s.dtype) for s in sums], minibatches

    def _minibatches(self) -> Iterator[tuple]:
        dataset = self._dataset
        arrays = dataset if isinstance(dataset, tuple) else (dataset,)
        batch_size = self._batch_size if isinstance(dataset, tuple) else None
        adapter = get_data_adapter(*arrays, batch_size=batch_size, shuffle=False)
        for data in adapter.get_numpy_iterator():
            yield keras.tree.map_structure(
                lambda a: None if a is None else ops.convert_to_tensor(a), tuple(data)
            )

    def _added(self, sums: list[Tensor], held: tuple, data: tuple, share: float) -> list[Tensor]:
        """The sums with one minibatch's gradients added."""
        others = self._model.non_trainable_variables
        function, scale = self._compiled(), float(self._loss_scale(self._model.optimizer))
        state = backend.frozen(others)
        while True:
            numbers = [ops.convert_to_tensor(number, "float32") for number in (share, scale)]
            new, is_finite = function(sums, *held, state, data, *numbers)
            # Only a scaled loss may overflow for its scale; elsewhere nothing waits for the answer.
            if scale <= 1.0 or bool(is_finite):
                break
            scale = max(1.0, scale / 16.0)
        backend.draw_anew([v for v in others if v.name == _SEED])
        return new

    def _compiled(self) -> Callable:
        model = self._model
        if self._function is None or self._compilation is not model._compile_config:
            self._compilation = model._compile_config
            function = _adding(model)
            self._function = function if model.run_eagerly else backend.compiled(function)
        return self._function


# The name of the variables in which Keras' layers count their random draws.
_SEED = "seed_generator_state"


def _adding(model: keras.Model) -> Callable:
    def added(
        sums: list[Tensor],
        trainable: list[Tensor],
        metrics: list[Tensor],
        non_trainable: list[Tensor],
        data: tuple,
        share: Tensor,
        scale: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        objective = Objective(model, data, trainable, non_trainable, metrics, loss_scale=scale)
        ws = [ops.cast(w, s.dtype) for w, s in zip(trainable, sums, strict=True)]
        _, gs = objective.value_and_grad(ws)
        pairs = zip(sums, gs, strict=True)
        return [s + ops.cast(share, s.dtype) * g for s, g in pairs], all_finite(gs)

    return added


def _share(model: keras.Model, data: tuple) -> float:
    """What a minibatch's gradient counts in the mean."""
    x, _, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
    reductions = {
        getattr(loss, "reduction", "sum_over_batch_size") for loss in keras.tree.flatten(model.loss)
    }
    if reductions == {"sum"}:
        return 1.0
    if reductions == {"mean_with_sample_weight"} and ops.is_tensor(sample_weight):
        return float(ops.sum(sample_weight))
    return float(_size(x))


def _size(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _check(dataset: Any) -> None:
    if dataset is None or (isinstance(dataset, tuple) and 1 <= len(dataset) <= 3):
        return
    if isinstance(dataset, types.GeneratorType) or (
        isinstance(dataset, Iterator) and iter(dataset) is dataset
    ):
        raise ValueError(
            f"dataset can be iterated once only: received {type(dataset).__name__}. Full passes "
            "come again and again: give the arrays (x, y), or a PyDataset, tf.data.Dataset or "
            "DataLoader, which start anew."
        )
    cardinality = getattr(dataset, "cardinality", None)
    endless = isinstance(dataset, keras.utils.PyDataset) and dataset.num_batches is None
    # What tf.data says of a dataset that repeats for ever.
    if endless or (callable(cardinality) and int(cardinality()) == -1):
        raise ValueError(
            "dataset has no end, so that a pass over it has none. Give it without `repeat`, or as "
            "the arrays (x, y)."
        )
    try:
        is_known = not isinstance(dataset, tuple | list | dict) and not hasattr(dataset, "shape")
        if is_known:
            get_data_adapter(dataset)
    except ValueError:
        is_known = False
    if not is_known:
        size = f" of {len(dataset)}" if isinstance(dataset, list | tuple) else ""
        raise ValueError(
            "dataset must be a tuple (x,), (x, y) or (x, y, sample_weight) of arrays, a PyDataset, "
            f"a tf.data.Dataset or a DataLoader, received {type(dataset).__name__}{size}."
        )


class FullPasses(keras.callbacks.Callback):
    """Runs the passes of a `fit` when they are due, between its steps.

    Args:
        full_pass: The bound model's.
    """

    def __init__(self, full_pass: FullPass) -> None:
        super().__init__()
        self._full_pass = full_pass
        self._steps_left = self._first = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Nothing is known of what was done before this fit."""
        self._steps_left = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Runs a pass if it is due."""
        self._first = batch
        if self._steps_left <= 0:
            # By asking for the model JAX puts the state of the fit into its variables.
            assert self.model is not None
            self._steps_left = self._full_pass.run_if_due()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps, of which one call of Keras may make several."""
        self._steps_left -= batch - self._first + 1
