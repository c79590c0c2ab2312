"""What a Keras user trains on is what `recommend` takes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

from recommender import Advice, RequestError, datasets, recommend
from recommender.problem import Problem, build
from recommender.request import Request, checked
from tests.recommender.kinds import KINDS, LABEL, NUMBER, X, two_outputs
from tests.recommender.problems import data, model

A, B = data(80)
BATCH = 12  # so that the last of seven batches has 8 rows


class Batches(keras.utils.PyDataset):
    """Arrays in batches; `endless` says nothing of its length."""

    def __init__(self, *arrays: Any, size: int = BATCH, endless: bool = False) -> None:
        super().__init__()
        self.arrays, self.size, self.endless = arrays, size, endless
        self.asked: list[int] = []

    @property
    def num_batches(self) -> int | None:
        return None if self.endless else math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        self.asked.append(index)
        rows = len(self.arrays[0])
        places = np.arange(index * self.size, (index + 1) * self.size)
        places = places % rows if self.endless else places[places < rows]
        return tuple(array[places] for array in self.arrays)


def batches(*arrays: Any, size: int = BATCH) -> Iterator[tuple[Any, ...]]:
    for first in range(0, len(arrays[0]), size):
        yield tuple(array[first : first + size] for array in arrays)


def tensorflow_data() -> Any:
    tf = pytest.importorskip("tensorflow", reason="reads tf.data, TensorFlow is not installed")
    return tf.data.Dataset.from_tensor_slices((A, B))


def torch_loader() -> Any:
    torch = pytest.importorskip("torch", reason="reads a DataLoader, torch is not installed")
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(A), torch.from_numpy(B))
    return torch.utils.data.DataLoader(pairs, batch_size=BATCH)


class Anew:
    """Begins again each time."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return batches(A, B)


SOURCES: dict[str, Callable[[], Any]] = {
    "PyDataset": lambda: Batches(A, B),
    "tf.data": lambda: tensorflow_data().batch(BATCH),
    "tf.data of unknown length": lambda: tensorflow_data().batch(BATCH).filter(lambda *_: True),
    "DataLoader": torch_loader,
    "generator": lambda: batches(A, B),
    "generator function": lambda: lambda: batches(A, B),
    "iterable": Anew,
}


def asked(x: Any, **changes: Any) -> Problem:
    arguments = {"model": model(), "x": x, "loss": "mse", "epochs": 3} | changes
    return build(checked(Request(**arguments)))


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_is_read_as_the_arrays_that_it_yields(kind: str) -> None:
    problem = asked(SOURCES[kind](), validation_data=SOURCES[kind]())
    np.testing.assert_array_equal(problem.x, A)
    np.testing.assert_array_equal(problem.y, B)
    np.testing.assert_array_equal(problem.x_val, A)
    assert (problem.batch_size, problem.steps_per_epoch, problem.full_steps) == (BATCH, 7, 21)
    assert any("iterated once" in note for note in problem.notes) == (kind == "generator")


def test_a_fifth_of_a_source_is_held_out_and_its_length_stays() -> None:
    problem = asked(Batches(A, B))
    assert (len(problem.x), len(problem.x_val), problem.steps_per_epoch) == (64, 16, 7)
    assert any("16 examples were held out" in note for note in problem.notes)


@pytest.mark.parametrize("kind", ["tf.data", "list of examples"])
def test_single_examples_are_put_into_batches(kind: str) -> None:
    x = tensorflow_data() if kind == "tf.data" else (pair for pair in zip(A, B, strict=True))
    problem = asked(x, validation_data=(A, B))
    np.testing.assert_array_equal(problem.y, B)
    assert (problem.batch_size, problem.steps_per_epoch) == (32, 3)
    smaller = asked(zip(A, B, strict=True), validation_data=(A, B), batch_size=10)
    assert (smaller.batch_size, smaller.steps_per_epoch) == (10, 8)


def test_weights_come_with_the_batches() -> None:
    weight = np.linspace(0, 1, 80).astype("float32")
    problem = asked(Batches(A, B, weight), validation_data=batches(A, B, 2 * weight))
    np.testing.assert_array_equal(problem.weight, weight)
    np.testing.assert_array_equal(problem.weight_val, 2 * weight)


def test_inputs_and_targets_may_be_trees() -> None:
    def elements() -> Iterator[Any]:
        for x, number, label in batches(X, NUMBER, LABEL):
            yield {"only": x}, {"label": label, "number": number}

    net, named = two_outputs(), keras.Input((4,), name="only")
    number, label = net(named)
    outputs = {"number": number, "label": label}
    problem = asked(elements(), model=keras.Model({"only": named}, outputs), loss=None)
    assert problem.x["only"].shape == (77, 4)
    assert {name: y.shape for name, y in problem.y.items()} == {"number": (77, 1), "label": (77,)}


def test_an_endless_source_needs_the_length_of_an_epoch() -> None:
    problem = asked(Batches(A, B, endless=True), steps_per_epoch=5, validation_data=(A, B))
    assert (len(problem.x), problem.steps_per_epoch, problem.full_steps) == (60, 5, 15)
    cycle = itertools.cycle(list(batches(A, B)))
    assert len(asked(cycle, steps_per_epoch=4, validation_data=(A, B)).x) == 48


def test_a_larger_source_is_read_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MOST_ROWS", 30)
    source = Batches(A, B)
    problem = asked(source, validation_data=(A, B))
    assert len(problem.x) == 36
    assert len(set(source.asked)) == 3
    assert source.asked != [0, 1, 2]  # whichever: at random
    assert problem.full_steps == 21
    assert any("read in part: 36 examples" in note for note in problem.notes)
    held = asked(A, y=B, validation_data=batches(A, B))
    np.testing.assert_array_equal(held.x_val, A[:36])
    # Exactly at the bound nothing is left, so nothing is said.
    monkeypatch.setattr(datasets, "MOST_ROWS", 80)
    assert not any("in part" in note for note in asked(lambda: batches(A, B)).notes)


def test_reading_takes_a_share_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(datasets.time, "monotonic", lambda: next(seconds))
    problem = asked(Batches(A, B), validation_data=(A, B), max_seconds=12, batch_size=BATCH)
    assert len(problem.x) < 80
    assert problem.full_steps == 21


def test_frames_and_tensors_are_arrays() -> None:
    class Frame:
        """As data frames of pandas and polars show themselves."""

        def __init__(self, values: Any) -> None:
            self.values, self.shape = values, values.shape

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.asarray(self.values, dtype)

        def __iter__(self) -> Iterator[str]:
            return iter("abcd")

    for wrap in (Frame, keras.ops.convert_to_tensor):
        problem = asked(wrap(A), y=wrap(B), validation_data=(wrap(A), wrap(B)))
        np.testing.assert_array_equal(problem.x_val, A)
        np.testing.assert_array_equal(problem.y_val, B)


def test_arrays_may_be_given_the_length_of_an_epoch() -> None:
    assert asked(A, y=B, steps_per_epoch=50).full_steps == 150


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "nothing": (lambda: {"x": iter(())}, "empty_source", "x yielded nothing"),
    "used up": (lambda: {"x": _used(batches(A, B))}, "empty_source", "used before"),
    "text": (lambda: {"x": iter(["a", "b"])}, "bad_element", r"x yielded a str; \(x, y\)"),
    "four": (
        lambda: {"x": batches(A, B, B, B)},
        "bad_element",
        "x yielded a tuple of 4",
    ),
    "none": (lambda: {"x": iter([None])}, "bad_element", "yielded a NoneType"),
    "ragged": (
        lambda: {"x": iter([(A[:8], B[:8]), (A[:8, :3], B[:8])])},
        "bad_element",
        "do not look alike",
    ),
    "rows": (
        lambda: {"x": iter([(A[:12], B[:8])])},
        "shape_mismatch",
        "x has 12 examples and y has 8",
    ),
    "words": (lambda: {"x": batches(A.astype(str), B)}, "not_numeric", "Encode text"),
    "NaN": (lambda: {"x": batches(A * np.nan, B)}, "not_finite", "x holds 320 NaN"),
    "endless": (
        lambda: {"x": Batches(A, B, endless=True)},
        "endless_source",
        "x has no end that was seen. Give steps_per_epoch",
    ),
    "endless generator": (
        lambda: {"x": itertools.cycle([(np.zeros((60_000, 4)), np.zeros((60_000, 1)))])},
        "endless_source",
        "after 120000 examples. Give steps_per_epoch",
    ),
    "endless validation": (
        lambda: {"x": A, "y": B, "validation_data": Batches(A, B, endless=True)},
        "endless_source",
        "validation_data has no end that was seen. Cut it",
    ),
    "y beside": (lambda: {"x": Batches(A, B), "y": B}, "bad_source", "y was given beside x"),
    "weight beside": (
        lambda: {"x": Batches(A, B), "sample_weight": B},
        "bad_source",
        "sample_weight was given beside x",
    ),
    "batch size": (
        lambda: {"x": Batches(A, B), "batch_size": 32},
        "batch_size_mismatch",
        "batches of 12",
    ),
    "function": (lambda: {"x": lambda: 3}, "bad_source", "x is a function"),
    "model": (lambda: {"x": model()}, "bad_source", "x is a Sequential"),
    "steps": (lambda: {"x": A, "y": B, "steps_per_epoch": 0}, "impossible_budget", "steps_per"),
    "targets": (lambda: {"x": Batches(A)}, "shape_mismatch", "y is missing"),
    "few": (lambda: {"x": batches(A[:6], B[:6])}, "shape_mismatch", "x holds 6 examples"),
    "validation": (
        lambda: {"x": A, "y": B, "validation_data": (A, B, B, B)},
        "shape_mismatch",
        "validation_data holds 4 things",
    ),
    "validation alike": (
        lambda: {"x": A, "y": B, "validation_data": batches(A, np.hstack([B, B]))},
        "shape_mismatch",
        "must look alike",
    ),
    "validation targets": (
        lambda: {"x": A, "y": B, "validation_data": (A,)},
        "outputs_mismatch",
        "y_val holds nothing for",
    ),
}


def _used(generator: Iterator[Any]) -> Iterator[Any]:
    list(generator)
    return generator


@pytest.mark.parametrize("case", BAD)
def test_data_that_cannot_be_used_are_refused(case: str) -> None:
    arguments, code, message = BAD[case]
    given = {"model": model(), "loss": "mse", "progress": False} | arguments()
    with pytest.raises(RequestError, match=message) as error:
        recommend(**given)
    assert error.value.code == code
    assert "\n" not in str(error.value)


def advice_on(net: keras.Model, x: Any, y: Any = None, **changes: Any) -> Advice:
    arguments = {"epochs": 600, "tier": "quick", "progress": False} | changes
    return recommend(net, x, y, **arguments)


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "DataLoader", "generator"])
def test_there_is_advice_for(kind: str) -> None:
    advice = advice_on(model(), SOURCES[kind](), validation_data=SOURCES[kind](), loss="mse")
    assert advice.evidence == "measured"
    assert advice.full_steps == 4200


@pytest.mark.parametrize(
    ("name", "task", "epochs"),
    [
        ("two outputs", "several", 500),
        ("a variational autoencoder", "other", 500),
        ("a masked sequence", "classification", 300),  # too few steps for a race
    ],
)
def test_there_is_advice_for_a_model_with(name: str, task: str, epochs: int) -> None:
    kind = KINDS[name]
    advice = advice_on(kind.model(), kind.x, kind.y, **kind.compiled, batch_size=16, epochs=epochs)
    assert advice.evidence == ("measured" if epochs == 500 else "prior")
    assert advice.cost.gradients > 0
    assert advice.description.task == task
    json.dumps(advice.to_dict(), allow_nan=False)
