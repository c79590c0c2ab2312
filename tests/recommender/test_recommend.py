"""Advice end to end: on real arrays and from descriptions, on the running backend."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_gradopt as kg
from recommender import Advice, recommend
from recommender.progress import Progress
from recommender.settings import Setting
from tests.recommender.problems import data, model

# Other processes have tests of their own (test_engine.py).
RUNNING = keras.config.backend()
LENGTH = {"epochs": 250, "batch_size": 32, "loss": "mse", "progress": False, "backend": RUNNING}


@pytest.fixture(scope="module")
def advice() -> Advice:
    return recommend(model(batch_norm=True), *data(), **LENGTH)


def fingerprint(net: keras.Model) -> str:
    digest = hashlib.sha256()
    for v in net.variables:
        digest.update(np.array(keras.ops.convert_to_numpy(v.value)).tobytes())
    return digest.hexdigest()


def timeless(data: Any) -> Any:
    """The answer without what may differ from run to run: seconds."""
    if isinstance(data, dict):
        return {k: timeless(v) for k, v in data.items() if "seconds" not in k}
    return [timeless(v) for v in data] if isinstance(data, list) else data


def test_it_was_measured_within_its_budget(advice: Advice) -> None:
    cost = advice.to_dict()["cost"]
    assert advice.full_steps == 2500
    assert advice.evidence == "measured"
    assert 0 < cost["fraction_of_full"] <= 0.10
    assert cost["gradient_evaluations"] == pytest.approx(sum(cost["by_purpose"].values()), abs=0.05)
    assert any(r.rungs for r in advice.results)
    assert {c.role for c in advice.candidates} == {"default", "portfolio"}


def test_the_same_request_gives_the_same_answer(advice: Advice) -> None:
    again = recommend(model(batch_norm=True), *data(), **LENGTH)
    assert timeless(again.to_dict()) == timeless(advice.to_dict())


def test_the_caller_s_model_is_never_touched() -> None:
    x, y = data()
    net = model(batch_norm=True, dropout=0.2)
    net.compile(optimizer=keras.optimizers.SGD(0.1), loss="mae")
    net.fit(x, y, epochs=1, verbose=0)
    before, optimizer = fingerprint(net), net.optimizer
    state = [np.array(keras.ops.convert_to_numpy(v.value)) for v in optimizer.variables]
    found = recommend(net, x, y, epochs=250, progress=False)
    assert fingerprint(net) == before
    assert net.optimizer is optimizer
    for v, value in zip(optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(v.value), value)
    # The compiled loss is the one that was measured: the absolute error of the present weights.
    initial = found.diagnostics.initial_loss
    assert initial == pytest.approx(float(net.evaluate(x, y, verbose=0)), rel=0.3)


def test_the_optimizer_trains_and_stretches(advice: Advice) -> None:
    x, y = data()
    net = model()
    net.compile(optimizer=advice.optimizer(total_steps=100), loss="mse")
    history = net.fit(x, y, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < history[0]
    rate = advice.optimizer(total_steps=100)._learning_rate
    peak = advice.decision.candidate.setting.learning_rate
    assert float(rate(0)) == float(rate(74)) == pytest.approx(peak)
    assert float(rate(100)) == 0.0
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        advice.optimizer(total_steps=0)


def test_the_code_runs_as_it_stands_and_makes_the_same_optimizer(advice: Advice) -> None:
    names: dict[str, Any] = {}
    exec(advice.code, names)  # noqa: S102 - our own text is what is tested
    made, advised = names["optimizer"].get_config(), advice.optimizer().get_config()
    assert made | {"name": None} == advised | {"name": None}
    assert type(names["optimizer"]) is type(advice.optimizer())


def test_everything_goes_through_json(advice: Advice) -> None:
    answer = json.loads(json.dumps(advice.to_dict(), allow_nan=False))
    assert set(answer) >= {
        "recommended", "expected", "evidence", "alternatives", "cost", "warnings",
        "architecture_advice",
    }  # fmt: skip
    made = keras.optimizers.deserialize(answer["recommended"]["optimizer"])
    assert isinstance(made, kg.Optimizer)
    assert answer["versions"]["keras"] == keras.__version__


def test_the_page_stands_alone(advice: Advice, tmp_path: Path) -> None:
    page = advice.save_report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page)
    assert 'class="plot"' in page
    assert advice.decision.candidate.label in page
    for result in advice.results:
        assert result.setting.label in page


def test_a_short_training_gets_the_instant_answer_after_a_stability_check() -> None:
    found = recommend(model(), *data(), **LENGTH | {"epochs": 20})
    assert found.decision.code == "too_few_steps"
    assert found.cost.fraction_of_full <= 0.10
    assert any("too short for a race" in note for note in found.notes)


def test_instant_costs_nothing() -> None:
    found = recommend(model(), *data(), **LENGTH, tier="instant")
    assert (found.cost.gradients, found.decision.basis, found.evidence) == (0.0, "prior", "prior")


def test_a_wall_clock_limit_ends_in_an_answer() -> None:
    found = recommend(model(), *data(), **LENGTH, max_seconds=0.05)
    assert found.decision.candidate.role in ("default", "portfolio")
    assert found.code


def test_a_rate_no_candidate_survives_still_ends_in_an_answer() -> None:
    x, y = data()
    found = recommend(model(), x * np.float32(1e15), y * np.float32(1e15), **LENGTH)
    assert found.decision.candidate is not None
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("net", "summary", "loss"),
    [
        (
            {"family": "mlp", "units": [16]},
            {"shape": [6], "task": "classification", "classes": 3, "samples": 2000, "noise": 0.1},
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ),
        (
            {"family": "linear"},
            {"shape": [6], "task": "regression", "samples": 2000, "sparsity": 0.5, "missing": 0.1},
            "mse",
        ),
    ],
)
def test_descriptions_alone_are_probed_on_drawn_data(net: Any, summary: Any, loss: Any) -> None:
    found = recommend(net, summary, loss=loss, epochs=50, progress=False)
    answer = found.to_dict()
    assert answer["evidence"]["kind"] == "synthetic"
    assert found.full_steps == 50 * 63
    assert found.cost.fraction_of_full <= 0.10
    assert any(r.rungs for r in found.results)
    assert abs(found.expected.p_beats_default - 0.5) < 0.5


def test_a_config_is_as_good_as_a_model() -> None:
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    for description in (net.to_json(), net.get_config()):
        found = recommend(description, *data(), **LENGTH | {"epochs": 20})
        assert found.description.parameters == 5


def test_requested_optimizers_are_tried() -> None:
    found = recommend(model(), *data(), **LENGTH, tier="standard", include=["adagrad"])
    (requested,) = [c for c in found.candidates if c.role == "requested"]
    assert any(r.setting == requested.setting and r.rungs for r in found.results)


def test_progress_is_told() -> None:
    said: list[str] = []
    recommend(model(), *data(), **LENGTH | {"progress": said.append})
    assert said[0] == "reading model and data"
    assert any(text.startswith("step ") for text in said)
    assert said[-1].startswith("decided for")


class Heard(Progress):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.plan: list[Setting] = []
        self.curves: dict[Setting, list[float]] = {}
        self.rungs: list[tuple[Setting, int, float]] = []
        self.ends: dict[Setting, str] = {}
        self.fractions: list[float] = []

    def planned(self, settings: Sequence[Setting]) -> None:
        self.plan = list(settings)

    def trained(self, setting: Setting, first: int, losses: Any, rate: float) -> None:
        assert rate == setting.learning_rate
        curve = self.curves.setdefault(setting, [])
        assert len(curve) == first
        curve.extend(losses.tolist())

    def judged(self, setting: Setting, step: int, loss: float) -> None:
        self.rungs.append((setting, step, loss))

    def stopped(self, setting: Setting, reason: str) -> None:
        assert setting not in self.ends
        self.ends[setting] = reason

    def spent(self, fraction: float) -> None:
        self.fractions.append(fraction)


def test_a_listener_hears_every_probe_as_the_evidence_holds_it() -> None:
    heard = Heard()
    found = recommend(model(), *data(), **LENGTH | {"progress": heard})
    assert heard.plan == [r.setting for r in found.results]
    for result in found.results:
        assert heard.curves[result.setting] == list(result.losses)
        judged = [(step, loss) for s, step, loss in heard.rungs if s == result.setting]
        assert judged == [(rung.step, rung.loss) for rung in result.rungs]
        assert heard.ends[result.setting] == result.stopped
    assert heard.fractions == sorted(heard.fractions)
    assert 0 < heard.fractions[-1] <= 1


def test_what_a_listener_raises_ends_the_request() -> None:
    class Impatient(Progress):
        def judged(self, setting: Setting, step: int, loss: float) -> None:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        recommend(model(), *data(), **LENGTH | {"progress": Impatient()})


@keras.saving.register_keras_serializable("tests")
class Bare(keras.Model):
    """A model whose call takes nothing but inputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)


def test_a_model_of_one_s_own_is_probed_from_nested_lists() -> None:
    x, y = data()
    advice = recommend(Bare(), x.tolist(), y.tolist(), epochs=500, progress=False)
    assert advice.evidence == "measured"


def test_a_fault_that_outweighs_any_optimizer_stops_the_race() -> None:
    x, _ = data()
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    labels = np.random.default_rng(0).integers(0, 3, len(x)).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    advice = recommend(net, x, labels, loss=loss, epochs=250, progress=False)
    assert advice.decision.code == "blocking_finding"
    assert advice.results == ()
    assert advice.evidence == "prior"
    assert advice.cost.fraction_of_full < 0.1


def test_a_race_that_finds_no_room_falls_back_on_the_choice_that_needs_none() -> None:
    # 2 000 steps leave 200 gradients: two validations of 1 024 rows cost 43 each.
    x, y = data()
    advice = recommend(
        model(), x, y, validation_data=data(4000, seed=1), epochs=40, batch_size=8, progress=False
    )
    assert advice.full_steps == 2000
    assert advice.decision.code == "budget_exhausted"
    assert advice.decision.basis == "prior"
    assert advice.decision.candidate == min(advice.candidates, key=lambda c: c.prior)
    assert advice.evidence == "prior"
