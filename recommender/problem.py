"""Turns a request into arrays, a private copy of the model, and the length of one training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from recommender import datasets, examples, length, synthetic
from recommender.compiled import check_computable, compile_with
from recommender.copies import private_copy
from recommender.datasets import Loaded
from recommender.errors import RequestError
from recommender.examples import Examples
from recommender.losses import Losses, check_labels, losses_for
from recommender.models import has_own_step, model_from_description
from recommender.request import BATCH_SIZE, Request, is_summary
from recommender.seeding import seeded

Source = Literal["real", "synthetic"]

# Validation during probes uses at most this many rows, the same for every candidate.
VALIDATION_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be trained.

    Attributes:
        model: A private, built copy of the caller's model; probes may do with it what they like.
        x, y: Training examples: arrays, or lists or dicts of arrays, y as the outputs are; y is
            None where the model has a loss of its own.
        x_val, y_val: Validation examples.
        loss: What `model.compile` takes, as the outputs are: Keras losses, or callers' own
            functions; None where the model has a loss of its own.
        batch_size, epochs: Of the caller's full training.
        steps_per_epoch: Steps of one pass over the data, the last one possibly smaller.
        full_steps: `steps_per_epoch * epochs`.
        source: `"real"` data, or `"synthetic"` when drawn from a description.
        seed: Seed of the batch order.
        notes: Remarks for the answer, such as how validation data was found.
        weight, weight_val: Weights of the examples in the loss, as y is, or None.
        loss_weights: What `model.compile` takes, as the outputs are, or None.
        summary: What the data was drawn from, or None.
    """

    model: keras.Model
    x: Any
    y: Any
    x_val: Any
    y_val: Any
    loss: Any
    batch_size: int
    epochs: int
    steps_per_epoch: int
    full_steps: int
    source: Source
    seed: int
    notes: tuple[str, ...] = ()
    weight: Any = None
    weight_val: Any = None
    loss_weights: Any = None
    summary: synthetic.DataSummary | None = None

    @property
    def training(self) -> Examples:
        """What a step of training takes rows of."""
        return Examples(self.x, self.y, self.weight)

    @property
    def validation(self) -> Examples:
        """What a validation takes rows of."""
        return Examples(self.x_val, self.y_val, self.weight_val)

    def compiled(self, optimizer: Any = None) -> keras.Model:
        """A copy of the model, compiled to minimise exactly what the caller's training does.

        Args:
            optimizer: None where nothing but the loss is computed.

        Raises:
            RequestError: The model's class has a `compile` that takes other arguments, or its
                loss cannot be computed.
        """
        model = private_copy(self.model, self.x)
        compile_with(model, optimizer, self.loss, self.loss_weights)
        check_computable(model, self.training)
        return model

    def batch_indices(self, first: int, count: int) -> NDArray[np.int32]:
        """Rows of the steps `first .. first + count - 1`; shape (count, batch_size).

        One endless stream of shuffled passes cut into equal batches, so the same step sees the
        same examples whoever asks, and every batch has the same shape.
        """
        rows = self.training.rows
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
    with seeded(request.seed):
        model, data, source = _materials(request)
        training, validation, notes = _parts(request, data, source)
        training, validation = (
            part._replace(x=examples.trainable(part.x)) for part in (training, validation)
        )
        twin = private_copy(model, training.x)
        losses = _losses(request, model, twin, training)
    if request.class_weight is not None:
        weight = examples.class_weights(training.y, request.class_weight)
        training = training._replace(weight=weight)
    training, validation = losses.arranged(training), losses.arranged(validation, "_val")
    examples.check_alike(training, validation)
    training, validation = examples.trainable(training), examples.trainable(validation)
    check_labels(losses, twin, training, validation)
    batch_size = _batch_size(request, data, training.rows)
    samples = data.samples
    if source == "real":  # what was held out is no part of the training, unless batches are given
        samples -= data.examples.rows - training.rows
    steps = request.steps_per_epoch or data.batches or length.full_steps(samples, batch_size, 1)
    if has_own_step(twin):
        notes.append(
            f"{type(twin).__name__} has a train_step or test_step of its own: probes run it as it "
            "is, through train_on_batch."
        )
    problem = Problem(
        model=twin,
        x=training.x,
        y=training.y,
        x_val=validation.x,
        y_val=validation.y,
        loss=losses.loss,
        batch_size=batch_size,
        epochs=request.epochs,
        steps_per_epoch=steps,
        full_steps=steps * request.epochs,
        source=source,
        seed=request.seed,
        notes=tuple(notes),
        weight=training.weight,
        weight_val=validation.weight,
        loss_weights=losses.loss_weights,
        summary=synthetic.summary_of(request.x) if source == "synthetic" else None,
    )
    with seeded(request.seed):
        problem.compiled()  # so that a loss that cannot be computed is refused here
    return problem


def _materials(request: Request) -> tuple[keras.Model, Loaded, Source]:
    """The model, and the data as arrays."""
    described = not isinstance(request.model, keras.Model)
    if is_summary(request.x):
        summary = synthetic.summary_of(request.x)
        model = model_from_description(request.model, summary) if described else request.model
        drawn = synthetic.draw(summary, model, request.seed)
        return model, Loaded(Examples(drawn.x, drawn.y), summary.samples), "synthetic"
    data = _loaded(request, request.x, "x", Examples(request.x, request.y, request.sample_weight))
    examples.check_enough(data.examples)
    model = request.model
    if described:
        model = model_from_description(model, synthetic.summarise(data.examples))
    return model, data, "real"


def _loaded(request: Request, given: Any, name: str, arrays: Examples) -> Loaded:
    """Data as arrays, read where they are none yet."""
    if not datasets.is_source(given):
        found = Examples(*(examples.arrays_of(part) for part in arrays))
        return Loaded(found, found.rows)
    loaded = datasets.load(
        given,
        name,
        request.model,
        batch_size=request.batch_size or BATCH_SIZE,
        steps_per_epoch=request.steps_per_epoch if name == "x" else None,
        max_seconds=request.max_seconds,
        seed=request.seed,
    )
    examples.check_examples(loaded.examples, "" if name == "x" else "_val")
    return loaded


def _parts(request: Request, data: Loaded, source: Source) -> tuple[Examples, Examples, list[str]]:
    """Training and validation examples, and what there is to say about them."""
    notes = list(data.notes)
    given = request.validation_data
    if given is not None and source == "real":
        pair = Examples(*given) if isinstance(given, (tuple, list)) else Examples(given)
        held = _loaded(request, given, "validation_data", pair)
        return data.examples, held.examples, notes + list(held.notes)
    training, validation = examples.split(data.examples, request.seed)
    if source == "real":
        notes.append(f"no validation_data given: {validation.rows} examples were held out")
    return training, validation, notes


def _losses(request: Request, model: keras.Model, twin: keras.Model, data: Examples) -> Losses:
    """What the caller asks to minimise, else what the model was compiled with."""
    loss, weights = request.loss, request.loss_weights
    compiled = bool(getattr(model, "compiled", False))
    if loss is None and compiled:
        loss = model.loss
        if weights is None and loss is not None:
            weights = model.get_compile_config().get("loss_weights")
    return losses_for(twin, data, loss, weights, settled=compiled)


def _batch_size(request: Request, data: Loaded, rows: int) -> int:
    """The source's own batch size, else the caller's, else the usual one."""
    asked = request.batch_size
    if data.batch_size is not None and asked not in (None, data.batch_size):
        raise RequestError(
            f"batch_size is {asked}, but x comes in batches of {data.batch_size}. Leave batch_size "
            "out, or let x make batches of that size.",
            code="batch_size_mismatch",
        )
    batch_size = data.batch_size or asked or BATCH_SIZE
    if batch_size > rows:
        raise RequestError(
            f"batch_size is {batch_size}, but only {rows} training examples are "
            "there. Give a smaller batch_size or more data.",
            code="impossible_budget",
        )
    return batch_size
