"""The table of short trainings apart from its page: order, memory, cells; and the next budget."""

from __future__ import annotations

from typing import Any

import pytest

from api import table
from api.again import larger
from api.drawing import HEIGHT, WIDTH, drawing

pytestmark = pytest.mark.backend_free


def trial(name: str, loss: float | None, **config: Any) -> dict[str, Any]:
    return {
        "id": name,
        "index": 0,
        "label": name,
        "optimizer": {"method": "sgd", "learning_rate": 0.1, "config": config},
        "status": "completed",
        "steps": 5,
        "stopped": None,
        "final_loss": loss,
        "val_metric": loss,
        "val_curve": [[5, loss]],
    }


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_text_that_begins_a_formula_gets_an_apostrophe(cell: str) -> None:
    assert table.safe(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", [-0.5, 3, None, "Adam 0.001", "a=b", ""])
def test_other_cells_stay_as_they_are(cell: Any) -> None:
    assert table.safe(cell) == cell


@pytest.mark.parametrize("way", ["val_loss", "-val_loss"])
def test_what_has_no_loss_comes_last_whichever_way(way: str) -> None:
    trials = [trial("none", None), trial("low", 0.1), trial("high", 0.9)]
    found = [one["id"] for one in table.ordered(trials, way, None)]
    assert found == (["low", "high", "none"] if way == "val_loss" else ["high", "low", "none"])
    assert table.ordered(trials, way, "none")[0]["id"] == "none", "the best is first all the same"


def test_an_order_that_does_not_exist_is_the_race_s() -> None:
    trials = [trial("high", 0.9), trial("low", 0.1)]
    assert [one["id"] for one in table.ordered(trials, "__class__", None)] == ["low", "high"]


def test_momentum_is_state() -> None:
    # Momentum is one number of 4 bytes for each weight; plain descent keeps nothing.
    assert table.state_bytes(trial("a", 0.1, momentum=0.9, nesterov=True), 1000) == 4000
    assert table.state_bytes(trial("b", 0.1), 1000) == 0
    assert table.state_bytes(trial("c", 0.1), None) is None
    assert table.state_bytes(trial("d", 0.1, momentum=0.123), 1000) is None, "nobody has counted"
    assert table.memory(trial("a", 0.1, momentum=0.9, nesterov=True), 1024 * 256).startswith(
        "1 MiB"
    )


def test_the_next_budget_has_seconds_for_its_share() -> None:
    asked = {"tier": "quick", "max_seconds": 120.0, "seed": 3}
    standard = larger(asked)
    assert standard == {"tier": "standard", "max_seconds": 600.0, "seed": 3}  # 50 % for 10 %
    thorough = larger(standard)
    assert thorough == {"tier": "thorough", "max_seconds": 2400.0, "seed": 3}  # 200 % for 50 %
    assert larger(thorough) is None
    assert larger({"tier": "standard", "max_seconds": 3000.0})["max_seconds"] == 3600.0
    assert larger({"tier": "instant", "max_seconds": 60.0}) == {
        "tier": "quick",
        "max_seconds": 60.0,
    }


@pytest.mark.parametrize(("rate", "steps"), [(0.01, 1), (0.01, 500), (0.0, 10)])
def test_a_constant_rate_is_a_level_line(rate: float, steps: int) -> None:
    found = drawing({"optimizer": {"config": {}}, "learning_rate": rate, "total_steps": steps})
    heights = {pair.split(",")[1] for pair in found["line"].split()}
    assert heights == {"0.0" if rate else f"{HEIGHT:.1f}"}
    assert found["line"].split()[-1].startswith(f"{WIDTH if steps > 1 else 0:.1f},")
    assert found["peak"] == rate
