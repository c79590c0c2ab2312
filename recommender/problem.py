"""Turns a request into arrays, a private copy of the model, and the length of one training."""

from __future__ import annotations

import copy
import inspect
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from recommender import length, synthetic
from recommender.errors import RequestError
from recommender.request import Request, is_summary, leaves

# Validation during probes uses at most this many rows, the same for every candidate.
VALIDATION_ROWS = 1024
# Examples whose outputs are compared with what the loss takes.
OUTPUT_ROWS = 256


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be trained.

    Attributes:
        model: A private, built copy of the caller's model; probes may do with it what they like.
        x, y: Training examples (x may be a list or dict of arrays).
        x_val, y_val: Validation examples.
        loss: The loss as a Keras object: a mean over the minibatch.
        batch_size, epochs: Of the caller's full training.
        steps_per_epoch: Steps of one pass over the data, the last one possibly smaller.
        full_steps: `steps_per_epoch * epochs`.
        source: `"real"` data, or `"synthetic"` when drawn from a description.
        seed: Seed of the batch order.
        notes: Remarks for the answer, such as how validation data was found.
    """

    model: keras.Model
    x: Any
    y: NDArray[Any]
    x_val: Any
    y_val: NDArray[Any]
    loss: keras.losses.Loss
    batch_size: int
    epochs: int
    steps_per_epoch: int
    full_steps: int
    source: Literal["real", "synthetic"]
    seed: int
    notes: tuple[str, ...] = ()

    def batch_indices(self, first: int, count: int) -> NDArray[np.int32]:
        """Rows of the steps `first .. first + count - 1`; shape (count, batch_size).

        One endless stream of shuffled passes cut into equal batches, so the same step sees the
        same examples whoever asks, and every batch has the same shape.
        """
        rows = len(self.y)
        begin, end = first * self.batch_size, (first + count) * self.batch_size
        passes = [
            np.random.default_rng([self.seed, 17, number]).permutation(rows)
            for number in range(begin // rows, (end - 1) // rows + 1)
        ]
        stream = np.concatenate(passes)[begin - (begin // rows) * rows :][: end - begin]
        return stream.reshape(count, self.batch_size).astype(np.int32)


def build(request: Request) -> Problem:
    """Load, copy, split and check what the request names.

    Args:
        request: A request that passed `request.checked`.

    Returns:
        The problem, with nothing shared with the caller's model.

    Raises:
        RequestError: When model and data do not fit together, or nothing can be trained.
    """
    notes: list[str] = []
    with _seeded(request.seed):
        model, x, y, samples, source = _materials(request)
        x = _as_arrays(x)
        if request.validation_data is not None and source == "real":
            x_val, y_val = request.validation_data
        else:
            x, y, x_val, y_val = _split(x, y, request.seed)
            held_out = len(leaves(x_val, "x_val")[0][1])
            if source == "real":
                notes.append(f"no validation_data given: {held_out} examples were held out")
                samples -= held_out
        model = private_copy(model, x)
        asked = request.loss
        if asked is None:
            asked = getattr(request.model, "loss", None) or loss_by_targets(model, x, y)
        loss = resolve_loss(asked)
    x, x_val = _as_arrays(x), _as_arrays(x_val)
    y, y_val = _as_array(y), _as_array(y_val)
    if request.batch_size > len(y):
        raise RequestError(
            f"batch_size is {request.batch_size}, but only {len(y)} training examples are "
            "there. Give a smaller batch_size or more data.",
            code="impossible_budget",
        )
    problem = Problem(
        model=model,
        x=x,
        y=y,
        x_val=x_val,
        y_val=y_val,
        loss=loss,
        batch_size=request.batch_size,
        epochs=request.epochs,
        steps_per_epoch=length.full_steps(samples, request.batch_size, 1),
        full_steps=length.full_steps(samples, request.batch_size, request.epochs),
        source=source,
        seed=request.seed,
        notes=tuple(notes),
    )
    _check_fit(problem)
    return problem


def take(x: Any, rows: Any) -> Any:
    """The given rows of a possibly nested input."""
    return keras.tree.map_structure(lambda values: values[rows], x)


def training_flag(model: keras.Model, training: bool) -> dict[str, bool]:
    """The `training` argument for a model whose `call` takes one, nothing for any other."""
    parameters = inspect.signature(model.call).parameters
    takes = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"training": training} if takes else {}


def forward(model: keras.Model, x: Any) -> Any:
    """The model's output in inference mode."""
    return model(x, **training_flag(model, training=False))


def loss_by_targets(model: keras.Model, x: Any, y: Any) -> Any:
    """The usual loss where nobody names one: cross-entropy for labels, else the squared error.

    Whether the model ends in logits is seen from its outputs.
    """
    y = np.asarray(y)
    shape = tuple(forward(model, take(x, slice(0, 2))).shape)
    labels = y.dtype.kind in "iub" and (y.size == len(y) or len(shape) == y.ndim + 1)
    if not labels:
        return "mse"
    squashed = is_squashed(model, x)
    if shape[-1] > 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not squashed)
    if set(np.unique(y)) <= {0, 1}:
        return keras.losses.BinaryCrossentropy(from_logits=not squashed)
    return "mse"


def is_squashed(model: keras.Model, x: Any) -> bool:
    """Whether the outputs are probabilities already, judged by the outputs of some examples."""
    few = take(x, slice(0, OUTPUT_ROWS))
    outputs = np.asarray(keras.ops.convert_to_numpy(forward(model, few)), np.float64)
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if outputs.shape[-1] > 1:
        return inside and bool(np.allclose(outputs.sum(axis=-1), 1, atol=1e-2))
    # One number in [0, 1] may be a logit by chance; the layer has to say so too.
    last = every_layer(model)[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return inside and activation in ("sigmoid", "hard_sigmoid")


def resolve_loss(loss: Any) -> keras.losses.Loss:
    """The loss as one Keras object, as `model.compile` would understand it.

    Raises:
        RequestError: When nothing of that name exists, or there is one loss per output.
    """
    if isinstance(loss, (list, tuple, dict)):
        raise RequestError(
            "one loss is expected; models with several outputs are not supported yet.",
            code="unsupported_model",
        )
    try:
        found = keras.losses.get(loss)
    except ValueError as error:
        raise RequestError(
            f"loss={loss!r} is not a Keras loss. Pass a name such as 'mse' or "
            "'sparse_categorical_crossentropy', or a keras.losses.Loss.",
            code="unknown_loss",
        ) from error
    if isinstance(found, keras.losses.Loss):
        return found
    return _as_loss_object(found)


def private_copy(model: keras.Model, x: Any) -> keras.Model:
    """A built copy with the same weights; the original is only read.

    Raises:
        RequestError: When the model cannot be copied, does not take `x`, or has nothing to train.
    """
    try:
        twin = _clone(model)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise RequestError(
            f"the model ({type(model).__name__}) cannot be copied: {error}. Probes must not "
            "touch your model, so it needs get_config/from_config as keras.Model describes.",
            code="unsupported_model",
        ) from error
    few = take(keras.tree.map_structure(np.asarray, x), slice(0, 2))
    try:
        output = forward(twin, few)
    except Exception as error:  # any layer of any backend may complain in its own way
        first = _complaint(error)
        shapes = ", ".join(f"{name}: {v.shape[1:]}" for name, v in leaves(x, "x"))
        raise RequestError(
            f"the model does not accept the data (rows of shape {shapes}): {first} "
            f"It expects inputs of shape {getattr(model, 'input_shape', 'unknown')}.",
            code="shape_mismatch",
        ) from error
    if len(keras.tree.flatten(output)) != 1:
        raise RequestError(
            "the model has several outputs, which is not supported yet. "
            "Ask for one output at a time.",
            code="unsupported_model",
        )
    if model.built:
        _copy_weights(model, twin)
    if not twin.trainable_variables:
        raise RequestError(
            "the model has no trainable weights: no optimizer can change it. "
            "Set layer.trainable = True on the layers to train.",
            code="no_trainable_weights",
        )
    return twin


def _clone(model: keras.Model) -> keras.Model:
    try:
        # Layer by layer, so custom layers need no registration.
        return keras.models.clone_model(model)
    except ValueError:  # a subclass with its own constructor
        return model.__class__.from_config(model.get_config())


def _complaint(error: Exception) -> str:
    """What a layer said, without Keras' line about where it was called from."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras sets its messages in bold
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return next(iter(said or lines), type(error).__name__).rstrip(".") + "."


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        ours.assign(keras.ops.convert_to_numpy(theirs))
    # A clone starts with every layer trainable when the flag was set after construction.
    for theirs, ours in zip(every_layer(source), every_layer(target), strict=True):
        if ours.trainable != theirs.trainable:
            ours.trainable = theirs.trainable


def every_layer(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model and of the models inside it."""
    found: list[keras.layers.Layer] = []
    for layer in model.layers:
        inside = getattr(layer, "layers", None)
        found.extend(every_layer(layer) if inside else [layer])
    return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw fresh weights and dropout seeds reproducibly, leaving the caller's generators alone.

    Initialisers without a seed take theirs from Python's own generator when they are made.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _materials(
    request: Request,
) -> tuple[keras.Model, Any, Any, int, Literal["real", "synthetic"]]:
    described_model = not isinstance(request.model, keras.Model)
    model = request.model
    if is_summary(request.x):
        summary = synthetic.summary_of(request.x)
        if described_model:
            model = model_from_description(request.model, summary)
        drawn = synthetic.draw(summary, model, request.seed)
        return model, drawn.x, drawn.y, summary.samples, "synthetic"
    if described_model:
        named = leaves(request.x, "x")
        model = model_from_description(request.model, synthetic.summarise(named[0][1], request.y))
    return model, request.x, request.y, len(leaves(request.x, "x")[0][1]), "real"


def model_from_description(description: Any, summary: synthetic.DataSummary) -> keras.Model:
    """A model from a Keras config (dict or JSON text) or from a family summary.

    Raises:
        RequestError: When neither can be recognised.
    """
    if isinstance(description, str):
        try:
            description = json.loads(description)
        except json.JSONDecodeError as error:
            raise RequestError(
                f"model is text but not JSON: {error}. Pass model.to_json(), a config or "
                "a family summary.",
                code="unsupported_model",
            ) from error
    if not isinstance(description, Mapping):
        raise RequestError(
            f"model must be a Keras model or its description, received "
            f"{type(description).__name__}.",
            code="unsupported_model",
        )
    if synthetic.is_family(description):
        return synthetic.build_family(description, summary)
    config: Any = copy.deepcopy(dict(description))
    try:
        if "class_name" in config:
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        elif "input_layers" in config:
            model = keras.Model.from_config(config)
        else:
            model = keras.Sequential.from_config(config)
    except Exception as error:  # a config may be wrong in any way
        raise RequestError(
            f"the model config cannot be read: {error}. Pass model.get_config(), model.to_json() "
            f"or a family summary ({', '.join(synthetic.FAMILIES)}).",
            code="unsupported_model",
        ) from error
    if not isinstance(model, keras.Model):
        raise RequestError(
            f"the config describes a {type(model).__name__}, a keras.Model is expected.",
            code="unsupported_model",
        )
    return model


def _split(x: Any, y: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """Hold a fifth out, with the same share of every class where the targets are classes."""
    x, y = _as_arrays(x), np.asarray(y)
    generator = np.random.default_rng([seed, 5])
    order = generator.permutation(len(y))
    labels = y.reshape(len(y), -1)
    is_class = y.dtype.kind in "iub" and labels.shape[1] == 1
    if is_class:
        # Stable sort of a random order by class, then every fifth row: stratified by hand, since
        # the library function refuses classes with a single member.
        order = order[np.argsort(labels[order, 0], kind="stable")]
        held = np.zeros(len(y), bool)
        held[:: length.HELD_OUT_EVERY] = True
    else:
        held = np.arange(len(y)) < length.held_out(len(y), classes=False)
    train, validation = np.sort(order[~held]), np.sort(order[held])
    return take(x, train), y[train], take(x, validation), y[validation]


def _as_arrays(x: Any) -> Any:
    if isinstance(x, (list, tuple)) and not (x and hasattr(x[0], "shape")):
        return _as_array(x)  # numbers in nested lists: one array, not a list of inputs
    return keras.tree.map_structure(_as_array, x)


def _as_array(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return array.astype(keras.config.floatx())
    return array.astype(np.int32) if array.dtype.kind in "iu" else array.astype(np.float32)


def _as_loss_object(function: Callable[[Any, Any], Any]) -> keras.losses.Loss:
    """The Keras class behind a loss function, else a plain wrapper around it."""
    for kind in vars(keras.losses).values():
        if isinstance(kind, type) and issubclass(kind, keras.losses.Loss):
            try:
                candidate = kind()
            except TypeError:  # the abstract base, or a loss with required arguments
                continue
            if getattr(candidate, "fn", None) is function:
                return candidate
    return _FunctionLoss(function)


class _FunctionLoss(keras.losses.Loss):
    """A caller's own `loss(y_true, y_pred)`, averaged over the minibatch."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(name=getattr(function, "__name__", "loss"))
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) + 1 == len(y_pred.shape) and y_pred.shape[-1] == 1:
            y_true = keras.ops.expand_dims(y_true, -1)
        return self.function(y_true, y_pred)


def _check_fit(problem: Problem) -> None:
    """Refuse targets that the model's output and the loss cannot take."""
    few = take(problem.x, slice(0, 2))
    output = forward(problem.model, few)
    target = problem.y[:2]
    shape = tuple(output.shape[1:])
    sparse = isinstance(problem.loss, keras.losses.SparseCategoricalCrossentropy)
    expected = shape[:-1] if sparse else shape
    given = tuple(target.shape[1:])
    squeezed = {expected, (*expected, 1), expected[:-1] if expected[-1:] == (1,) else expected}
    if given not in squeezed and not isinstance(problem.loss, _FunctionLoss):
        raise RequestError(
            f"y has rows of shape {given}, the model's output {shape} with loss "
            f"{problem.loss.name!r} needs rows of shape {expected}. Change y, the last layer "
            "or the loss.",
            code="shape_mismatch",
        )
    if sparse:
        lowest, highest = int(problem.y.min()), int(problem.y.max())
        highest = max(highest, int(problem.y_val.max()))
        if lowest < 0 or highest >= shape[-1]:
            raise RequestError(
                f"labels run from {lowest} to {highest}, but the model has {shape[-1]} outputs, "
                f"so labels must lie in 0 to {shape[-1] - 1}. Renumber y or widen the last layer.",
                code="label_range",
            )
