"""The answer without Keras against the one with it, and the published file against live classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recommender import recommend
from recommender.instant import DataFacts, family_facts, instant
from recommender.knowledge import published
from recommender.knowledge.publish import published as live

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"family": "linear"}, {"shape": [6], "task": "regression", "samples": 500}),
    "deep": (
        {"family": "mlp", "units": [16] * 7},
        {"shape": [3, 4], "samples": 4000, "classes": 3, "imbalance": 0.9},
    ),
    "small data": ({"family": "mlp"}, {"shape": [300], "samples": 40, "classes": 5}),
    "normalised": (
        {"family": "cnn", "units": [4, 8], "batch_norm": True},
        {"shape": [8, 8, 3], "samples": 1000, "classes": 10},
    ),
    "flat image": ({"family": "cnn", "units": [4]}, {"shape": [8, 8], "samples": 100}),
    "recurrent": (
        {"family": "recurrent", "units": [12, 9]},
        {"shape": [7, 5], "task": "regression", "outputs": 2, "samples": 3000, "sparsity": 0.9},
    ),
    "series": ({"family": "recurrent", "units": [12]}, {"shape": [7], "samples": 3000}),
}


def without_keras(net: dict[str, Any], data: dict[str, Any], **length: int) -> dict[str, Any]:
    regression = data.get("task") == "regression"
    outputs = data.get("outputs", 1) if regression else data.get("classes", 2)
    units = net.get("units", [] if net["family"] == "linear" else [64, 64])
    facts = family_facts(
        net["family"], units, data["shape"], outputs, batch_norm=net.get("batch_norm", False)
    )
    return instant(
        facts,
        DataFacts(
            samples=data["samples"],
            shape=tuple(data["shape"]),
            task=data.get("task", "classification"),
            classes=None if regression else data.get("classes", 2),
            largest_class=data.get("imbalance"),
            zero_share=data.get("sparsity", 0.0),
        ),
        **length,
    )


@pytest.mark.parametrize("case", CASES)
def test_the_answer_without_keras_is_the_one_with_it(case: str) -> None:
    net, data = CASES[case]
    length = {"epochs": 30, "batch_size": 16}
    mine = without_keras(net, data, **length)
    theirs = recommend(net, data, tier="instant", progress=False, **length).to_dict()
    assert set(mine) == set(theirs)
    for part in ("recommended", "decision", "expected", "alternatives", "request", "warnings"):
        assert mine[part] == theirs[part], part
    assert mine["evidence"]["kind"] == theirs["evidence"]["kind"] == "prior"
    described, read = mine["evidence"]["description"], theirs["evidence"]["description"]
    assert set(described) == set(read)
    for fact in ("parameters", "layers", "depth", "input_shape", "task", "full_steps", "tags"):
        assert described[fact] == read[fact], fact
    assert mine["cost"] | {"seconds": 0} == theirs["cost"] | {"seconds": 0}


def test_the_published_file_is_what_the_live_classes_say() -> None:
    assert published() == live(), "run: KERAS_BACKEND=jax python -m recommender.knowledge.publish"


def test_the_instant_answer_imports_neither_keras_nor_a_framework() -> None:
    program = (
        "import sys\n"
        "from recommender.instant import DataFacts, ModelFacts, instant\n"
        "facts = ModelFacts({'Dense': 2}, 2), DataFacts(100, (4,), 'regression')\n"
        "assert instant(*facts, batch_size=8, epochs=3)['recommended']['total_steps'] == 39\n"
        "heavy = {'keras', 'jax', 'tensorflow', 'torch', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
