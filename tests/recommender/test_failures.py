"""A candidate that cannot be trained is a result, and the advice still comes."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from recommender import recommend, settings
from recommender.errors import reason_of
from tests.recommender.failing import failing_class
from tests.recommender.problems import data, model

RUNNING = keras.config.backend()
FAILURES = {
    "raises": "failed with ValueError: cannot take this model",
    "allocates": "ran out of memory",
    "exhausts": "ran out of memory",
}


# The first has a program of its own on JAX, the second shares one with the others.
@pytest.mark.parametrize("method", ["prodigy", "adagrad"])
@pytest.mark.parametrize("way", FAILURES)
def test_a_candidate_that_fails_is_a_result(
    way: str, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(settings, "optimizer_class", failing_class(method, way))
    asked: dict[str, Any] = {
        "epochs": 250, "loss": "mse", "include": [method], "backend": RUNNING,
        "progress": False, "journal": tmp_path,
    }  # fmt: skip
    found = recommend(model(), *data(), **asked)
    (failed,) = [r for r in found.results if r.setting.method == method]
    assert failed.stopped == FAILURES[way]
    assert failed.rungs == failed.losses == ()
    assert all(r.rungs for r in found.results if r is not failed)
    assert found.evidence == "measured"
    again = recommend(model(), *data(), **asked)
    assert [r.to_dict() for r in again.results] == [r.to_dict() for r in found.results]


def test_a_model_that_cannot_be_trained_at_all_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "optimizer_class", failing_class("adam", "raises"))
    with pytest.raises(ValueError, match="cannot be trained with Adam 0.001: a step failed with"):
        recommend(model(), *data(), epochs=250, loss="mse", backend=RUNNING, progress=False)


def test_reasons_are_one_line() -> None:
    assert reason_of(ValueError("  a\nb")) == "failed with ValueError: a"
    assert reason_of(ValueError()) == "failed with ValueError"
    assert len(reason_of(ValueError("a" * 1000))) < 300
