"""Messages of a probe: those that it sends come through, anything else ends it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from recommender.executors import messages
from recommender.executors.messages import Misbehaved, Reader, parsed

pytestmark = pytest.mark.backend_free

USAGE = {"cpu_seconds": 1.5, "peak_memory_bytes": 2**20}
TRIAL = {"label": "adam 1e-3", "method": "adam", "learning_rate": 1e-3, "config": {"beta_1": 0.9}}
GOOD: list[dict[str, Any]] = [
    {"kind": "ready"},
    {"kind": "said", "text": "racing 4 candidates, Schrödinger's"},
    {"kind": "planned", "trials": [TRIAL, TRIAL]},
    {"kind": "working", "trial": None, "label": "adam", "key": "failure adam"},
    {"kind": "trained", "trial": 1, "points": [[10, 0.5], [20, None]], "rate": 1e-3},
    {"kind": "judged", "trial": 0, "step": 20, "loss": None},
    {"kind": "stopped", "trial": 0, "reason": "place 3 of 4"},
    {"kind": "worked", "trial": 0, "seconds": 0.25},
    {"kind": "spent", "fraction": 1.0},
    {"kind": "result", "result": {"recommended": {}}, "usage": USAGE},
    {"kind": "failed", "code": "data_rejected", "detail": "no", "usage": USAGE},
]


class Pipe:
    def __init__(self) -> None:
        read, self.write = os.pipe()
        self.reader = Reader(read)

    def says(self, *lines: Any) -> list[Any]:
        for line in lines:
            raw = line if isinstance(line, bytes) else json.dumps(line).encode()
            os.write(self.write, raw + b"\n")
        return self.reader.read(0)[0]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.reader.close()
    os.close(made.write)


def test_what_a_probe_says_comes_through(pipe: Pipe) -> None:
    assert pipe.says(*GOOD) == GOOD
    assert {message["kind"] for message in GOOD} == set(messages.KINDS)


@pytest.mark.parametrize("good", GOOD, ids=lambda message: message["kind"])
def test_a_field_too_many_or_too_few_is_refused(good: dict[str, Any]) -> None:
    with pytest.raises(Misbehaved):
        parsed(json.dumps({**good, "more": 1}).encode())
    for name in good:
        with pytest.raises(Misbehaved):
            parsed(json.dumps({key: good[key] for key in good if key != name}).encode())


@pytest.mark.parametrize("good", GOOD[1:], ids=lambda message: message["kind"])
@pytest.mark.parametrize(
    "wrong", [True, [], [[]], [7], ["a"], 1e301, 10**400, "x" * 5000], ids=range(8)
)
def test_a_field_of_another_type_or_size_is_refused(good: dict[str, Any], wrong: Any) -> None:
    for name in set(good) - {"kind"}:
        with pytest.raises(Misbehaved):
            parsed(json.dumps({**good, name: wrong}).encode())


@pytest.mark.parametrize("wrong", [-1, 2**53, 1.0, "1"], ids=repr)
@pytest.mark.parametrize(("kind", "name"), [("trained", "trial"), ("judged", "step")])
def test_a_count_is_a_whole_number_that_a_store_can_hold(kind: str, name: str, wrong: Any) -> None:
    (good,) = (message for message in GOOD if message["kind"] == kind)
    with pytest.raises(Misbehaved):
        parsed(json.dumps({**good, name: wrong}).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nothing",
        b"[]",
        b"7",
        b"null",
        b'{"kind": 7}',
        b'{"kind": ["said"]}',
        b'{"kind": "__class__"}',
        b'{"kind": "said", "text": "\\ud800"}',
        b'{"kind": "said", "text": "\xff"}',
        b'{"kind": "spent", "fraction": NaN}',
        b'{"kind": "spent", "fraction": 1e999}',
        b'{"kind": "spent", "fraction": 1.5}',
        b'{"kind": "result", "result": {"a": Infinity}, "usage": {}}',
        b'{"kind": "judged", "trial": 0, "step": ' + b"9" * 5000 + b', "loss": 1}',
        b'{"kind": "said", "text": ' + b"[" * 200_000,
        b'{"kind": "failed", "code": "sandbox_unavailable", "detail": "", "usage": {}}',
    ],
    ids=range(17),
)
def test_a_line_that_no_probe_writes_is_refused(line: bytes) -> None:
    with pytest.raises(Misbehaved):
        parsed(line)


def test_a_trial_has_to_be_planned(pipe: Pipe) -> None:
    with pytest.raises(Misbehaved, match="trial 0 of 0"):
        pipe.says({"kind": "judged", "trial": 0, "step": 1, "loss": 1.0})
    pipe.says({"kind": "planned", "trials": [TRIAL]})
    pipe.says({"kind": "judged", "trial": 0, "step": 1, "loss": 1.0})
    with pytest.raises(Misbehaved, match="trial 1 of 1"):
        pipe.says({"kind": "stopped", "trial": 1, "reason": ""})
    with pytest.raises(Misbehaved, match="two plans"):
        pipe.says({"kind": "planned", "trials": [TRIAL]})


def test_too_long_a_line_is_refused_unless_it_is_the_result(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LONGEST_LINE", 1000)
    monkeypatch.setattr(messages, "LONGEST_RESULT", 3000)
    result = {"kind": "result", "result": {"a": "x" * 2000}, "usage": USAGE}
    assert pipe.says(result) == [result]
    with pytest.raises(Misbehaved, match="a line of"):
        pipe.says({"kind": "said", "text": "x" * 2000})
    os.write(pipe.write, b"x" * 4000)
    with pytest.raises(Misbehaved, match="more than 3000"):
        pipe.reader.read(0)


def test_too_much_and_too_fast_is_refused(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"kind": "spent", "fraction": 0.5}
    monkeypatch.setattr(messages, "MESSAGES_FIRST", 10)
    monkeypatch.setattr(messages, "MESSAGES_A_SECOND", 0)
    assert len(pipe.says(*[spent] * 10)) == 10
    with pytest.raises(Misbehaved, match="messages a second"):
        pipe.says(spent)
    monkeypatch.setattr(messages, "MOST_BYTES", 100)
    with pytest.raises(Misbehaved, match="more than 100 bytes"):
        pipe.says(spent)


def test_half_a_line_waits_for_the_other_half(pipe: Pipe) -> None:
    os.write(pipe.write, b'{"kind": "rea')
    began = time.monotonic()
    assert pipe.reader.read(0.1) == ([], False)
    assert pipe.says(b'dy"}') == [{"kind": "ready"}]
    assert time.monotonic() - began < 1
