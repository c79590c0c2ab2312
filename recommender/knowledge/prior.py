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
        return Outlook(self, self._forest.weights(facts.numbers(description)))

    @functools.cached_property
    def _forest(self) -> _Forest:
        """The forest in the form that is quickest to walk."""
        nodes = self.nodes
        itself = np.arange(len(nodes["left"]))
        left, right = (np.where(nodes[side] < 0, itself, nodes[side]) for side in ("left", "right"))
        at, depth = nodes["roots"], 0
        while (left[at] != at).any():
            at, depth = np.union1d(left[at], right[at]), depth + 1
        places = nodes["places"].ravel()
        counts = np.bincount(places, minlength=len(itself))
        return _Forest(
            nodes["roots"].astype(np.intp),
            nodes["feature"].astype(np.intp),
            nodes["threshold"],
            np.stack([right, left], axis=1).astype(np.intp).ravel(),
            depth,
            np.argsort(places, kind="stable") % len(self.tasks),
            counts,
            np.cumsum(counts) - counts,
            len(self.tasks),
        )

    @functools.cached_property
    def by_choice(self) -> dict[Choice, Outcomes]:
        """What each choice came to where it was measured."""
        return {choice: self._measured(column) for column, choice in enumerate(self.choices)}

    def _measured(self, column: int) -> Outcomes:
        known = ~np.isnan(self.excess[:, column])
        return Outcomes(known, self.excess[known, column], self.time_ratio[known, column])

    @functools.cached_property
    def whole(self) -> Array:
        """`penalty` with each choice's mean where it was not measured."""
        return np.where(np.isnan(self.penalty), np.nanmean(self.penalty, axis=0), self.penalty)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one choice came to on the recorded tasks where it was measured.

    Attributes:
        known: Which tasks these are, among all.
        excess: Its best loss over the default's there.
        time_ratio: Its steps to the default's best loss there.
    """

    known: NDArray[np.bool_]
    excess: Array
    time_ratio: Array

    @functools.cached_property
    def by_excess(self) -> NDArray[Any]:
        """The order of `excess`."""
        return np.argsort(self.excess, kind="stable")

    @functools.cached_property
    def by_time(self) -> NDArray[Any]:
        """The order of `time_ratio`."""
        return np.argsort(self.time_ratio, kind="stable")


@dataclass(frozen=True, eq=False)
class _Forest:
    """Trees to walk down, all at once.

    Attributes:
        roots: First node of each tree.
        feature, threshold: What each node asks: whether the feature is at most the threshold.
        children: Of node i, at 2i where the answer is no and at 2i + 1 where it is yes; a leaf is
            its own child.
        depth: Steps after which every walk has ended.
        members: Recorded tasks, those in the first node first.
        counts: How many lie in each node.
        begins: Where those of each node begin in `members`.
        tasks: How many recorded tasks there are.
    """

    roots: NDArray[Any]
    feature: NDArray[Any]
    threshold: Array
    children: NDArray[Any]
    depth: int
    members: NDArray[Any]
    counts: NDArray[Any]
    begins: NDArray[Any]
    tasks: int

    def weights(self, values: NDArray[np.float32]) -> Array:
        """How much each recorded task counts for these facts.

        It is the share of trees, where each tree is divided among all tasks of the same leaf.
        """
        at = self._leaves(values)
        counts = self.counts.take(at)
        ends = counts.cumsum()
        within = np.arange(ends[-1]) + (self.begins.take(at) - ends + counts).repeat(counts)
        shares = (1 / counts).repeat(counts)
        return np.bincount(self.members.take(within), shares, self.tasks) / len(at)

    def _leaves(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """The leaf of each tree that these facts lead to."""
        at = self.roots
        for _ in range(self.depth):
            goes_left = values.take(self.feature.take(at)) <= self.threshold.take(at)
            at = self.children.take(2 * at + goes_left)
        return at


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
    def expected(self) -> Array:
        """Expected penalty of each of the prior's choices: 0 is the best of all, 1 the default."""
        expected: Array = self.weights @ self.prior.whole
        return expected

    def ranked(self) -> list[tuple[Choice, float]]:
        """The choices with their expected penalties, the best first."""
        choices, penalties = self.prior.choices, self.expected.tolist()
        order = np.argsort(self.expected, kind="stable").tolist()
        return [(choices[i], penalties[i]) for i in order]

    def outcomes(self, choice: Choice) -> tuple[Outcomes, Array]:
        """What the choice came to, and the weights of the tasks where it was measured."""
        found = self.prior.by_choice[choice]
        weights = self.weights[found.known]
        return found, weights / weights.sum()

    def nearest(self, count: int = 3) -> list[tuple[str, str, float]]:
        """Name, summary and weight of the tasks that count most."""
        order = np.argsort(-self.weights, kind="stable")[:count]
        prior = self.prior
        return [(prior.tasks[i], prior.summaries[i], float(self.weights[i])) for i in order]


def quantiles(
    values: Array, weights: Array, qs: Sequence[float], order: NDArray[Any] | None = None
) -> list[float]:
    """The smallest value below which a share of at least `q` of the weights lies, itself included.

    Args:
        values: Shape (n,).
        weights: Shape (n,); they sum to 1.
        qs: Each in [0, 1].
        order: What sorts the values; None finds it.

    Returns:
        One value for each of `qs`.
    """
    order = np.argsort(values, kind="stable") if order is None else order
    reached = weights.take(order).cumsum()
    # Rounding may leave the last sum below 1.
    places = np.minimum(reached.searchsorted([q - 1e-12 for q in qs]), len(values) - 1)
    return [float(value) for value in values.take(order.take(places))]


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
