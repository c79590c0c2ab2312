"""bind(model): gives one model the train step that hands its optimizer an Objective."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradopt import backend, nested
from keras_gradopt.callbacks.evaluation_weights import EvaluationWeights, averaging_optimizer
from keras_gradopt.callbacks.search_report import SearchReport, searching_optimizer
from keras_gradopt.callbacks.switch_report import SwitchReport, switching_optimizer
from keras_gradopt.full_pass import FullPass, FullPasses
from keras_gradopt.objective import Objective, bound, loss_watched, offered
from keras_gradopt.optimizer import Optimizer

Tensor = Any


def bind(model: keras.Model, dataset: Any = None) -> keras.Model:
    """Lets optimizers that need more than gradients train this model through `fit`.

    Sets the instance's train step to the model's own one inside a context in which the optimizer
    finds an `Objective` (SAM, ...); afterwards it hands the loss to schedules that follow it
    (`ReduceOnPlateau`). `fit`, `evaluate` and `predict` get the callback `EvaluationWeights` where
    the optimizer averages weights; `fit` gets `SearchReport` where it searches by the loss, and
    `SwitchReport` where it is made of parts that take turns. With any other optimizer all is the
    model's own. Nothing but this instance changes. Keras does not save it: bind again after
    `load_model` or `clone_model`. For optimizers that see losses only the step is Keras' without
    its gradient, so that the loss need not have one; a model with a `train_step` of its own keeps
    that.
    Binding twice is binding once; what the second call says counts.

    Optimizers that need the gradient over all data (`needs` is "dataset") get it from `dataset`, in
    passes over it between the steps of `fit` and `train_on_batch`, when they are due.

    Args:
        model: The model, compiled or not.
        dataset: What the model is trained on, for optimizers that need full passes: (x, y) or
            (x, y, sample_weight) of arrays, cut into minibatches of `fit`'s batch_size; or a
            `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`, which give
            minibatches and can be iterated again. None is none.

    Returns:
        The same model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: Keras runs with NNX, which ignores a train step on the instance; `dataset` can
            be iterated once only, has no end, or is none.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=keras_gradopt.SAM("sgd"), loss="mse")
        >>> model = keras_gradopt.bind(model, dataset=(x, y))
        >>> model.compile(optimizer=keras_gradopt.SVRG(0.05), loss="mse")

    References:
        The mechanism is ours; the trainers of Keras 3 read `self.train_step`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"bind takes a keras.Model, received {type(model).__name__}.")
    if keras.config.is_nnx_enabled():
        raise ValueError(
            "Keras runs with NNX, which ignores a train step set on one model. Unset "
            "KERAS_NNX_ENABLED to use optimizers that evaluate the loss again."
        )
    own_step = _step_of(model)
    watch = LossWatch(model)
    full_pass = FullPass(model, dataset, _dataset_rule, lambda optimizer: optimizer.scale_loss(1.0))

    @contextlib.contextmanager
    def offer(trainable: Any, non_trainable: Any, metrics: Any, optimizer: Any, data: Any) -> Any:
        with contextlib.ExitStack() as around:
            if watch.is_needed():
                around.enter_context(loss_watched())
            if needs_objective(model.optimizer):
                full_pass.check_dataset()
                scale = _loss_scale(model.optimizer, optimizer)
                objective = Objective(
                    model,
                    data,
                    trainable,
                    non_trainable,
                    metrics,
                    loss_scale=scale,
                    cost_of_step=1.0 if nested.asks_gradient(model.optimizer) else 1 / 3,
                )
                around.enter_context(offered(objective))
            yield

    model.train_step = backend.train_step(own_step, offer, watch)
    _build_in_sight_of(model)
    for name in ("fit", "evaluate", "predict"):
        setattr(model, name, _with_callbacks(model, name, full_pass))
    model.train_on_batch = _with_full_passes(model, full_pass)
    # Keras compiles the step once and keeps it; the next fit must see the new one.
    model.train_function = None
    return model


def _step_of(model: keras.Model) -> Callable:
    """The model's own train step; Keras' without its gradient where the optimizer asks for none."""
    own = type(model).train_step.__get__(model)
    if type(model).train_step is not keras.Model.train_step:
        return own
    losses_only = backend.losses_step(model)

    @functools.wraps(own)
    def step(*args: Any) -> Any:
        return own(*args) if nested.asks_gradient(model.optimizer) else losses_only(*args)

    return step


def _build_in_sight_of(model: keras.Model) -> None:
    """Lets optimizers find the model where Keras builds their state before any step."""
    own = type(model)._symbolic_build.__get__(model)

    @functools.wraps(own)
    def build(*args: Any, **kwargs: Any) -> Any:
        with bound(model):
            return own(*args, **kwargs)

    model._symbolic_build = build


class LossWatch:
    """Reads the loss of each step of a model, and hands it to the optimizer that follows it.

    The trainers keep the loss in a running mean only. It is set aside for the step and put together
    again after it, so that the step's own loss is read without cancellation.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def is_needed(self) -> bool:
        """Whether the optimizer, or one inside it, follows the loss."""
        return any(
            isinstance(o, Optimizer) and o.follows_loss
            for o in nested.all_of(self._model.optimizer)
        )

    def begin(self, metrics: Sequence[Tensor] | None) -> tuple[list[Tensor] | None, Any]:
        """Before the step.

        Args:
            metrics: Values of the metrics' variables; None are those in place.

        Returns:
            What `end` wants back, and the metrics' values to step with.
        """
        if not self.is_needed():
            return None, metrics
        tracker = self._model._loss_tracker
        with _stateless(self._model.metrics_variables, metrics) as values_of:
            kept = [ops.copy(ops.convert_to_tensor(v)) for v in tracker.variables]
            for v in tracker.variables:
                v.assign(ops.zeros_like(ops.convert_to_tensor(v)))
            return kept, values_of(self._model.metrics_variables)

    def end(
        self,
        kept: list[Tensor] | None,
        logs: dict[str, Any],
        optimizer: Sequence[Tensor] | None,
        metrics: Sequence[Tensor] | None,
    ) -> tuple[dict[str, Any], Any, Any]:
        """After the step: the logs, and the new values of optimizer and metrics."""
        if kept is None:
            return logs, optimizer, metrics
        model, tracker = self._model, self._model._loss_tracker
        followed = [*model.optimizer.variables, *model.metrics_variables]
        values = None if metrics is None or optimizer is None else [*optimizer, *metrics]
        with _stateless(followed, values) as values_of:
            for one in nested.all_of(model.optimizer):
                if isinstance(one, Optimizer):
                    one.observe(tracker.result())
                    break
            for v, old in zip(tracker.variables, kept, strict=True):
                v.assign_add(old)
            logs = {**logs, "loss": tracker.result()} if "loss" in logs else logs
            return logs, values_of(model.optimizer.variables), values_of(model.metrics_variables)


@contextlib.contextmanager
def _stateless(variables: Sequence[Any], values: Sequence[Tensor] | None) -> Iterator[Callable]:
    """Variables with these values, where there are any, and a reader of what becomes of them."""
    if values is None:
        yield lambda wanted: None
        return
    with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)) as scope:
        yield lambda wanted: [scope.get_current_value(v) for v in wanted]


def _with_callbacks(model: keras.Model, name: str, full_pass: FullPass) -> Callable:
    """A method of the model with the callbacks that its optimizer needs."""
    own = getattr(type(model), name).__get__(model)
    signature = inspect.signature(own)

    @functools.wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        callbacks = given.arguments.get("callbacks")
        # Inside `fit`, `evaluate` gets the whole list of callbacks, which holds ours already.
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return own(*given.args, **given.kwargs)
        listed = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        listed = [c for c in listed if c is not None]
        if averaging_optimizer(model) and not any(isinstance(c, EvaluationWeights) for c in listed):
            # First, so that the others (checkpoints, early stopping) see its weights.
            listed.insert(0, EvaluationWeights())
        searches = searching_optimizer(model) is not None
        if name == "fit" and searches and not any(isinstance(c, SearchReport) for c in listed):
            listed.append(SearchReport())
        switches = switching_optimizer(model) is not None
        if name == "fit" and switches and not any(isinstance(c, SwitchReport) for c in listed):
            # After the search's, which may be what makes it switch.
            listed.append(SwitchReport())
        if name == "fit" and full_pass.rule is not None:
            weights = {w: given.arguments.get(w) for w in ("sample_weight", "class_weight")}
            full_pass.prepare(given.arguments.get("batch_size"), weights)
            # Last, so that it sees the weights that the step will see.
            listed.append(FullPasses(full_pass))
        if listed:
            given.arguments["callbacks"] = listed
        with bound(model):
            return own(*given.args, **given.kwargs)

    return method


def _with_full_passes(model: keras.Model, full_pass: FullPass) -> Callable:
    """The model's `train_on_batch`, before which a full pass is made where it is due."""
    own = type(model).train_on_batch.__get__(model)

    @functools.wraps(own)
    def train_on_batch(x: Any, *args: Any, **kwargs: Any) -> Any:
        if full_pass.rule is not None:
            full_pass.prepare_batch(x)
        return own(x, *args, **kwargs)

    return train_on_batch


def needs_objective(optimizer: Any) -> bool:
    """Whether an optimizer, or one inside it, evaluates the loss again."""
    return any(getattr(o, "needs", "gradient") != "gradient" for o in nested.all_of(optimizer))


def _dataset_rule(optimizer: Any) -> Any:
    """An optimizer, or the one inside it, that needs the dataset; None if there is none."""
    return nested.first(optimizer, lambda o: getattr(o, "needs", "gradient") == "dataset")


def _loss_scale(optimizer: Any, values: Any) -> Any:
    """What the optimizer multiplies the loss with at this step, as a number or tensor."""
    if values is None:
        return optimizer.scale_loss(1.0)
    with keras.StatelessScope(zip(optimizer.variables, values, strict=True)):
        return optimizer.scale_loss(1.0)
