"""The prior: what every choice came to on recorded tasks, those most like the one at hand first.

A forest of trees on the facts of a task, grown to foretell what each choice misses of the possible
gain, says how alike two tasks are: how often they fall into the same leaf. Expectations, odds and
quantiles are those of the recorded tasks under these weights (N. Meinshausen, "Quantile Regression
Forests", 2006; trees as in P. Geurts, D. Ernst and L. Wehenkel, "Extremely Randomized Trees",
2006). Reading it takes NumPy only; growing it (`python -m recommender.rehearsal`) takes
scikit-learn.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recommender.knowledge import facts, grid
from recommender.knowledge.grid import Choice
from recommender.settings import Setting

if TYPE_CHECKING:
    from recommender.knowledge.table import Record

FILE = Path(__file__).with_name("prior.npz")
TREES, LEAF, FEATURES = 300, 2, 0.4
DEFAULT = Choice(grid.DEFAULT, "constant")
# What may be advised: every recorded rate with a late cooldown, and the default as it is.
CHOICES = (DEFAULT, *(Choice(setting, "late_cooldown") for setting in grid.FULL.trunks))

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prior:
    """Recorded outcomes, and a forest that says which tasks are alike.

    Attributes:
        tasks: Names of the recorded tasks.
        summaries: What each of them is, in a few words.
        choices: What may be advised.
        penalty: What each choice misses (`score.penalty`); shape (tasks, choices), NaN where it
            was not measured.
        excess: Its best loss over the default's, as `score.Score.excess`; same shape.
        time_ratio: Its steps to the default's best loss; same shape.
        nodes: The forest: "roots" (trees,), "feature", "threshold", "left", "right" (nodes,), and
            "places" (trees, tasks), the leaf of each recorded task.
    """

    tasks: tuple[str, ...]
    summaries: tuple[str, ...]
    choices: tuple[Choice, ...]
    penalty: Array
    excess: Array
    time_ratio: Array
    nodes: Mapping[str, NDArray[Any]] = field(repr=False)

    def about(self, description: Mapping[str, Any]) -> Outlook:
        """What to expect on the task of that description (`Description.to_dict`)."""
        at = self._leaves(facts.numbers(description))
        together = self.nodes["places"] == at[:, None]
        weights = (together / self._forest.tasks[at][:, None]).mean(axis=0)
        return Outlook(self, weights)

    def _leaves(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """The leaf of each tree that these facts lead to."""
        forest = self._forest
        at = forest.roots
        for _ in range(forest.depth):
            goes_left = values[forest.feature[at]] <= forest.threshold[at]
            at = forest.children[2 * at + goes_left]
        return at

    @functools.cached_property
    def _forest(self) -> _Forest:
        """The forest in the form that is quickest to walk."""
        nodes = self.nodes
        itself = np.arange(len(nodes["left"]))
        left, right = (np.where(nodes[side] < 0, itself, nodes[side]) for side in ("left", "right"))
        at, depth = nodes["roots"], 0
        while (left[at] != at).any():
            at, depth = np.union1d(left[at], right[at]), depth + 1
        return _Forest(
            nodes["roots"].astype(np.intp),
            nodes["feature"].astype(np.intp),
            nodes["threshold"],
            np.stack([right, left], axis=1).ravel(),
            np.bincount(nodes["places"].ravel(), minlength=len(itself)),
            depth,
        )

    @functools.cached_property
    def whole(self) -> Array:
        """`penalty` with each choice's mean where it was not measured."""
        return np.where(np.isnan(self.penalty), np.nanmean(self.penalty, axis=0), self.penalty)


@dataclass(frozen=True, eq=False)
class _Forest:
    """Trees to walk down, all at once.

    Attributes:
        roots: First node of each tree.
        feature, threshold: What each node asks: whether the feature is at most the threshold.
        children: Of node i, at 2i where the answer is no and at 2i + 1 where it is yes; a leaf is
            its own child.
        tasks: How many recorded tasks lie in each node.
        depth: Steps after which every walk has ended.
    """

    roots: NDArray[Any]
    feature: NDArray[Any]
    threshold: Array
    children: NDArray[Any]
    tasks: NDArray[Any]
    depth: int


@dataclass(frozen=True, eq=False)
class Outlook:
    """The recorded outcomes as seen from one task.

    Attributes:
        prior: The outcomes.
        weights: How much each recorded task counts; they sum to 1.
    """

    prior: Prior
    weights: Array

    @functools.cached_property
    def expected(self) -> dict[Choice, float]:
        """Expected penalty of each choice: 0 is the best of all, 1 the default."""
        means = self.weights @ self.prior.whole
        return dict(zip(self.prior.choices, (float(m) for m in means), strict=True))

    def outcomes(self, choice: Choice) -> tuple[Array, Array, Array]:
        """Excess losses, time ratios and weights of the tasks where the choice was measured."""
        column = self.prior.choices.index(choice)
        known = ~np.isnan(self.prior.excess[:, column])
        weights = self.weights[known] / self.weights[known].sum()
        return self.prior.excess[known, column], self.prior.time_ratio[known, column], weights

    def nearest(self, count: int = 3) -> list[tuple[str, str, float]]:
        """Name, summary and weight of the tasks that count most."""
        order = np.argsort(-self.weights, kind="stable")[:count]
        prior = self.prior
        return [(prior.tasks[i], prior.summaries[i], float(self.weights[i])) for i in order]


def quantile(values: Array, weights: Array, q: float) -> float:
    """The smallest value below which a share of at least `q` of the weights lies, itself included.

    Args:
        values: Shape (n,).
        weights: Shape (n,); they sum to 1.
        q: In [0, 1].
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= q - 1e-12
    return float(values[order][np.argmax(reached)])


def grow(records: Sequence[Record]) -> Prior:
    """A prior from recorded tasks; the same for the same records and version of scikit-learn.

    Args:
        records: At least two tasks.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    outcomes = np.stack([_outcomes(record) for record in records])
    arrays = dict(
        zip(("penalty", "excess", "time_ratio"), outcomes.transpose(1, 0, 2), strict=True)
    )
    prior = Prior(
        tuple(record.name for record in records),
        tuple(" ".join(record.facts.get("summary", "").split()) for record in records),
        CHOICES,
        **arrays,
        nodes={},
    )
    described = np.stack([facts.numbers(record.facts["description"]) for record in records])
    forest = ExtraTreesRegressor(
        TREES, min_samples_leaf=LEAF, max_features=FEATURES, random_state=0
    ).fit(described, prior.whole)
    return Prior(prior.tasks, prior.summaries, CHOICES, **arrays, nodes=_flat(forest, described))


@functools.cache
def _outcomes(record: Record) -> Array:
    """Penalty, excess loss and time ratio of each choice; shape (3, choices)."""
    from recommender.knowledge.score import penalty, score

    found = np.full((3, len(CHOICES)), np.nan)
    for column, choice in enumerate(CHOICES):
        if choice in record.grid.places:
            one = score(record, choice, range(record.seeds))
            found[:, column] = penalty(record, one), one.excess, one.time_ratio
    return found


def _flat(forest: Any, described: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The trees of a forest of scikit-learn one after the other in arrays."""
    parts: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("feature", "threshold", "left", "right")
    }
    roots, begin = [], 0
    for grown in forest.estimators_:
        tree = grown.tree_
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, 0, tree.feature).astype(np.int16))
        # scikit-learn compares float32 facts with float64 thresholds.
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, -1, tree.children_left + begin).astype(np.int32))
        parts["right"].append(np.where(leaf, -1, tree.children_right + begin).astype(np.int32))
        roots.append(begin)
        begin += tree.node_count
    nodes = {name: np.concatenate(values) for name, values in parts.items()}
    nodes["roots"] = np.array(roots, np.int32)
    nodes["places"] = (forest.apply(described) + nodes["roots"]).T.astype(np.int32)
    return nodes


def save(prior: Prior, path: Path = FILE) -> None:
    """Write a prior as one file."""
    meta = {
        "tasks": prior.tasks,
        "summaries": prior.summaries,
        "choices": [{**grid.plain(c.setting), "shape": c.shape} for c in prior.choices],
    }
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    outcomes = {name: getattr(prior, name) for name in ("penalty", "excess", "time_ratio")}
    with path.open("wb") as file:
        np.savez_compressed(file, meta=text, **outcomes, **prior.nodes)  # type: ignore[arg-type]


def load(path: Path = FILE) -> Prior:
    """Read a prior."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(bytes(arrays.pop("meta")))
    choices = tuple(
        Choice(Setting(c["method"], c["learning_rate"], tuple(c["config"].items())), c["shape"])
        for c in meta["choices"]
    )
    outcomes = {name: arrays.pop(name) for name in ("penalty", "excess", "time_ratio")}
    return Prior(tuple(meta["tasks"]), tuple(meta["summaries"]), choices, **outcomes, nodes=arrays)


@functools.cache
def shipped() -> Prior:
    """The prior of the whole truth table."""
    return load()
