"""The chart of a job: losses above, learning rates below, each candidate in one colour and dash."""

from __future__ import annotations

from typing import Any

import pytest

from api.leases import Leases
from tests.api.browsing import Opened
from tests.api.server import until
from tests.api.stage import TRIALS, staged
from tests.api.web import Web

pytestmark = pytest.mark.backend_free

# Of the trials that are staged: steps at the constant rate, and the last step of the cooldown.
CONSTANT, COOLED = 92, 123


@pytest.fixture(scope="module")
def path(running: Web) -> str:
    return f"/recommendations/{staged(running.http, Leases(running.store), 'succeeded')}"


def lines(page: Any) -> dict[str, Any]:
    """What the chart draws, by name."""
    until(lambda: page.locator("#chart .trace").count(), "the chart is drawn")
    look = "document.getElementById('chart').data.map(one => [one.name, one])"
    return dict(page.evaluate(look))


def test_learning_rates_are_drawn_as_they_were_trained_with(opened: Opened, path: str) -> None:
    drawn = lines(opened(path))
    for label, _, _, rate, *_ in TRIALS[:2]:
        line = drawn[f"{label}, learning rate"]
        points = [(x, y) for x, y in zip(line["x"], line["y"], strict=True) if x is not None]
        assert points[:2] == [(0, rate), (CONSTANT, rate)]
        cooled = points[2:]
        assert [cooled[0][0], cooled[-1][0]] == [CONSTANT, COOLED - 1]
        for step, value in cooled:
            # A straight line that is 0 one step behind the last, as `Trunk.cooled` has it.
            left = (COOLED - step) / (COOLED - CONSTANT)
            assert value == pytest.approx(rate * left, rel=1e-9), f"at step {step}"
        assert line["line"] == drawn[label]["line"], "the same colour and dash as its losses"
    assert drawn["SGD 30, learning rate"]["y"] == [30, 30], "diverged, and not hidden"


def test_rates_are_taken_away_and_put_back_by_keyboard(opened: Opened, path: str) -> None:
    page = opened(path)
    everything = len(lines(page))
    box = page.get_by_role("checkbox", name="Show learning rates")
    box.focus()
    page.keyboard.press("Space")
    until(lambda: len(lines(page)) == everything - 3, "the rates go")
    assert not [name for name in lines(page) if "learning rate" in name]
    page.keyboard.press("Space")
    until(lambda: len(lines(page)) == everything, "they come back")


def test_without_scripts_no_hole_is_left_for_the_chart(opened: Opened, path: str) -> None:
    page = opened(path, java_script_enabled=False)
    assert page.locator("#chart").is_hidden()
    assert page.get_by_role("checkbox", name="Show learning rates").is_hidden()
    assert page.locator("#table tbody tr").count() == len(TRIALS)


def test_on_a_narrow_screen_the_first_number_is_seen_without_scrolling(
    opened: Opened, path: str
) -> None:
    page = opened(path, viewport={"width": 360, "height": 800})
    box = page.locator("#table tbody tr").first.locator("td").first.bounding_box()
    assert box["x"] + box["width"] <= 360
