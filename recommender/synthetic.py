"""Models and data drawn from descriptions, for callers who can share neither."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.errors import RequestError
from recommender.examples import Examples

Task = Literal["classification", "regression"]
FAMILIES = ("linear", "mlp", "cnn", "recurrent")
# Rows drawn: enough for probes, however many the caller has.
DRAWN_ROWS = 4096


@dataclass(frozen=True)
class DataSummary:
    """What a caller says of data that stays at home.

    Attributes:
        shape: Shape of one example's input.
        task: Classification or regression.
        samples: Training examples, at least 8.
        classes: Number of classes, at least 2 (classification).
        outputs: Numbers per target (regression).
        noise: Share of wrong labels, or noise in units of the target's deviation; in [0, 1].
        imbalance: Share of the largest class, in (0, 1); None for equal shares.
        sparsity: Share of inputs that are 0, in [0, 1).
        missing: Share of inputs that are missing (and filled with 0), in [0, 1).
        vocabulary: For token inputs, how many tokens there are; None for real numbers.
    """

    shape: tuple[int, ...]
    task: Task = "classification"
    samples: int = 1000
    classes: int = 2
    outputs: int = 1
    noise: float = 0.1
    imbalance: float | None = None
    sparsity: float = 0.0
    missing: float = 0.0
    vocabulary: int | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """Data drawn from a description."""

    x: NDArray[Any]
    y: NDArray[Any]


def summary_of(x: Any) -> DataSummary:
    """A checked summary from a mapping or a `DataSummary`.

    Raises:
        RequestError: A field is unknown or out of range.
    """
    given = dataclasses.asdict(x) if isinstance(x, DataSummary) else dict(x)
    known = {field.name for field in dataclasses.fields(DataSummary)}
    unknown = sorted(set(given) - known)
    if unknown or "shape" not in given:
        raise RequestError(
            f"a data summary needs shape and may hold {', '.join(sorted(known))}; received "
            f"{', '.join(sorted(given)) or 'nothing'}.",
            code="bad_summary",
        )
    shape = given["shape"]
    given["shape"] = tuple(int(n) for n in (shape if isinstance(shape, (list, tuple)) else [shape]))
    summary = DataSummary(**given)
    checks = {
        "shape": bool(summary.shape) and all(n >= 1 for n in summary.shape),
        "task": summary.task in get_args(Task),
        "samples": summary.samples >= 8,
        "classes": summary.classes >= 2,
        "outputs": summary.outputs >= 1,
        "noise": 0 <= summary.noise <= 1,
        "imbalance": summary.imbalance is None or 0 < summary.imbalance < 1,
        "sparsity": 0 <= summary.sparsity < 1,
        "missing": 0 <= summary.missing < 1,
        "vocabulary": summary.vocabulary is None or summary.vocabulary >= 2,
    }
    for name, fine in checks.items():
        if not fine:
            raise RequestError(
                f"{name} of the data summary is out of range: received "
                f"{getattr(summary, name)!r}. See recommender.synthetic.DataSummary.",
                code="bad_summary",
            )
    return summary


def summarise(data: Examples) -> DataSummary:
    """The summary of real data, as far as a described model needs it.

    Raises:
        RequestError: There are several inputs or targets, or none.
    """
    x, y = data.x, data.y
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        raise RequestError(
            "a described model takes one array x and one array y. Pass a Keras model for several "
            "inputs or outputs, or for a loss of its own.",
            code="unsupported_model",
        )
    shape = tuple(int(n) for n in x.shape[1:]) or (1,)
    if y.dtype.kind in "iub" and y.reshape(len(y), -1).shape[1] == 1:
        return DataSummary(shape, "classification", len(y), classes=max(2, int(y.max()) + 1))
    outputs = int(math.prod(y.shape[1:])) if y.ndim > 1 else 1
    return DataSummary(shape, "regression", len(y), outputs=outputs)


def is_family(description: Any) -> bool:
    """Whether a model's description is a family summary."""
    return isinstance(description, Mapping) and "family" in description


def build_family(description: Mapping[str, Any], summary: DataSummary) -> keras.Model:
    """A model of a named family for such data.

    Args:
        description: `{"family": "mlp", "units": [64, 64], "batch_norm": False, "dropout": 0.0}`;
            everything but the family may be left out.
        summary: The data it is for.

    Raises:
        RequestError: The family or a field is unknown.
    """
    family = description["family"]
    unknown = sorted(set(description) - {"family", "units", "batch_norm", "dropout"})
    if family not in FAMILIES or unknown:
        raise RequestError(
            f"family must be one of {', '.join(FAMILIES)} with units, batch_norm and dropout; "
            f"received {dict(description)!r}.",
            code="unsupported_model",
        )
    units = list(description.get("units", [] if family == "linear" else [64, 64]))
    layers: list[Any] = [keras.Input(summary.shape), *_entrance(family, summary.shape)]
    for position, width in enumerate(units):
        layers.append(_hidden(family, width, last=position == len(units) - 1))
        if description.get("batch_norm"):
            layers.append(keras.layers.BatchNormalization())
        if description.get("dropout"):
            layers.append(keras.layers.Dropout(float(description["dropout"])))
    if family == "cnn":
        layers.append(keras.layers.GlobalAveragePooling2D())
    classify = summary.task == "classification"
    layers.append(keras.layers.Dense(summary.classes if classify else summary.outputs))
    return keras.Sequential(layers)


def _entrance(family: str, shape: tuple[int, ...]) -> list[keras.layers.Layer]:
    """What gives the input the rank that the family's first layer takes."""
    if family in ("linear", "mlp"):
        return [keras.layers.Flatten()]
    rank = {"cnn": 3, "recurrent": 2}[family]
    if len(shape) < rank:
        return [keras.layers.Reshape((*shape, *[1] * (rank - len(shape))))]
    return []


def _hidden(family: str, width: int, *, last: bool) -> keras.layers.Layer:
    if family == "cnn":
        return keras.layers.Conv2D(width, 3, padding="same", activation="relu")
    if family == "recurrent":
        return keras.layers.GRU(width, return_sequences=not last)
    return keras.layers.Dense(width, activation="relu")


def draw(summary: DataSummary, model: keras.Model, seed: int) -> Drawn:
    """Data of this description: inputs at random, targets from a random two-layer teacher.

    Args:
        summary: The description.
        model: Decides nothing but the targets' shape, through its output.
        seed: Seed of everything drawn.
    """
    generator = np.random.default_rng([seed, 41])
    rows = min(summary.samples, DRAWN_ROWS)
    if summary.vocabulary is not None:
        x: NDArray[Any] = generator.integers(0, summary.vocabulary, (rows, *summary.shape))
        # One-hot codes of the first places, 256 columns of them: all places would take too much.
        places = x.reshape(rows, -1)[:, : math.ceil(256 / summary.vocabulary)]
        features = (places[:, :, None] == np.arange(min(summary.vocabulary, 256))).reshape(rows, -1)
        features = features[:, :256].astype(np.float64)
    else:
        x = generator.normal(size=(rows, *summary.shape)).astype(np.float32)
        absent = summary.sparsity + summary.missing * (1 - summary.sparsity)
        x *= generator.random(x.shape) >= absent
        features = x.reshape(rows, -1)[:, :256]
    hidden = np.tanh(features @ generator.normal(size=(features.shape[1], 16)) / 4)
    width = summary.classes if summary.task == "classification" else summary.outputs
    scores = hidden @ generator.normal(size=(16, width))
    output = tuple(model.output_shape[1:]) if isinstance(model.output_shape, tuple) else (width,)
    if summary.task == "regression":
        scores = (scores - scores.mean(0)) / (scores.std(0) + 1e-9)
        scores = scores + summary.noise * generator.normal(size=scores.shape)
        return Drawn(x, scores.astype(np.float32))
    if summary.imbalance is not None:
        # Raise the first class until it holds its share.
        margin = np.max(scores[:, 1:], axis=1) - scores[:, 0]
        scores[:, 0] += np.quantile(margin, summary.imbalance)
    y = scores.argmax(1)
    wrong = generator.random(rows) < summary.noise
    y[wrong] = generator.integers(0, summary.classes, wrong.sum())
    if output == (1,):
        return Drawn(x, y[:, None].astype(np.float32))
    if len(output) == 2:
        y = np.repeat(y[:, None], output[0], axis=1)
    return Drawn(x, y.astype(np.int32))
