"""The answer without training, from a description alone and without importing Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recommender import answer, length
from recommender.answer import Plain
from recommender.budget import Budget
from recommender.candidates import Candidate, labelled, mentioned, propose, tried
from recommender.decision import by_prior
from recommender.forecast import forecast
from recommender.knowledge import prior, published
from recommender.probes import width
from recommender.settings import Setting
from recommender.tags import tags

TIER = "instant"


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is built.

    Attributes:
        layers: How many layers of each class.
        depth: Layers with weights.
        parameters: Trainable numbers; None where they are not known.
    """

    layers: dict[str, int]
    depth: int
    parameters: int | None = None


@dataclass(frozen=True)
class DataFacts:
    """What is known of data before it is read.

    Attributes:
        samples: Training examples, held-out ones not counted.
        shape: Shape of one example's input.
        task: "classification", "binary", "regression" or "other".
        classes: Number of classes, or None.
        largest_class: Share of the largest class, or None.
        zero_share: Share of inputs that are exactly 0.
        notes: Remarks for the answer.
    """

    samples: int
    shape: tuple[int, ...]
    task: str
    classes: int | None = None
    largest_class: float | None = None
    zero_share: float = 0.0
    notes: tuple[str, ...] = field(default=())


def instant(
    model: ModelFacts, data: DataFacts, *, batch_size: int, epochs: int, seed: int = 0
) -> Plain:
    """The advice of `recommend(..., tier="instant")`, in milliseconds.

    Args:
        model: What is known of the model.
        data: What is known of the data.
        batch_size: Examples per step, at least 1.
        epochs: Length of one full training, at least 1.
        seed: Repeated in the answer; nothing is drawn.

    Returns:
        What `Advice.to_dict` gives, where the facts reach.
    """
    steps = length.full_steps(data.samples, batch_size, epochs)
    words = tags(
        model.layers,
        model.depth,
        parameters=model.parameters,
        samples=data.samples,
        zero_share=data.zero_share,
        largest_class=data.largest_class,
        scale_spread=0.0,
    )
    description = {
        "parameters": model.parameters,
        "layers": dict(sorted(model.layers.items())),
        "depth": model.depth,
        "samples": data.samples,
        "input_shape": list(data.shape),
        "task": data.task,
        "classes": data.classes,
        "largest_class": data.largest_class,
        "zero_share": data.zero_share,
        "scale_spread": None,
        "full_steps": steps,
        "batch_size": batch_size,
        "tags": list(words),
    }
    outlook = prior.shipped().about(description)
    candidates = propose(outlook, width=width(TIER, steps))
    decision = by_prior(candidates, None)
    chosen = decision.candidate
    return answer.answer(
        recommended=_recommended(chosen, steps),
        decision=decision.to_dict(),
        expected=forecast(outlook, decision, TIER).to_dict(),
        evidence="prior",
        probes=(),
        diagnostics=None,
        description=description,
        nearest=outlook.nearest(),
        notes=data.notes,
        alternatives=[
            *(c.to_dict(_label(c)) for c in candidates if c != chosen),
            *(
                c.to_dict(tried(_class_name(c.setting.method)))
                for c in mentioned(description, TIER)
            ),
        ],
        cost=Budget(TIER, steps).cost().to_dict(),
        findings=(),
        changes=(),
        request={"tier": TIER, "seed": seed},
        versions=published()["versions"],
    )


def family_facts(
    family: str, units: Sequence[int], shape: Sequence[int], outputs: int, *, batch_norm: bool
) -> ModelFacts:
    """Layers and parameters of the model that `synthetic.build_family` would build.

    Args:
        family: "linear", "mlp", "cnn" or "recurrent".
        units: Width of each hidden layer.
        shape: Shape of one example's input.
        outputs: Width of the last layer.
        batch_norm: Whether each hidden layer is followed by batch normalisation.
    """
    rank = {"cnn": 3, "recurrent": 2}.get(family)
    if rank is None:
        layers, width = {"Flatten": 1}, math.prod(shape)
    else:
        layers = {"Reshape": 1} if len(shape) < rank else {}
        width = shape[-1] if len(shape) == rank else 1
    kind = {"cnn": "Conv2D", "recurrent": "GRU"}.get(family, "Dense")
    parameters = 0
    for wide in units:
        parameters += _weights(kind, width, wide) + (2 * wide if batch_norm else 0)
        width = wide
    parameters += _weights("Dense", width, outputs)
    counts = {kind: len(units), "BatchNormalization": len(units) if batch_norm else 0}
    counts["Dense"] = counts.get("Dense", 0) + 1
    if family == "cnn":
        counts["GlobalAveragePooling2D"] = 1
    layers |= {name: count for name, count in counts.items() if count}
    depth = len(units) * (2 if batch_norm else 1) + 1
    return ModelFacts(layers, depth, parameters)


def _weights(kind: str, inputs: int, outputs: int) -> int:
    if kind == "GRU":  # three gates, each with two biases as Keras' reset_after has them
        return 3 * outputs * (inputs + outputs + 2)
    return outputs * ((9 if kind == "Conv2D" else 1) * inputs + 1)


def _recommended(candidate: Candidate, steps: int) -> Plain:
    setting = candidate.setting
    entry = _published(setting)
    optimizer = _copied(entry["optimizer"][candidate.shape])
    parts = answer.schedule_parts(candidate.shape, steps)
    if parts:
        optimizer["config"]["learning_rate"]["config"] |= parts
    text = answer.code(
        entry["class_name"], setting.learning_rate, setting.config, candidate.shape, steps
    )
    return answer.recommended(
        _label(candidate), optimizer, setting.learning_rate, candidate.shape, steps, text
    )


def _copied(plain: Any) -> Any:
    """Plain data anew, so that no caller changes what was published."""
    if isinstance(plain, dict):
        return {key: _copied(value) for key, value in plain.items()}
    return [_copied(value) for value in plain] if isinstance(plain, list) else plain


def _label(candidate: Candidate) -> str:
    return labelled(_published(candidate.setting)["label"], candidate.shape)


def _class_name(method: str) -> str:
    return next(str(e["class_name"]) for e in published()["optimizers"] if e["name"] == method)


def _published(setting: Setting) -> Mapping[str, Any]:
    for entry in published()["settings"]:
        same = entry["method"] == setting.method and entry["config"] == dict(setting.config)
        if same and entry["learning_rate"] == setting.learning_rate:
            found: Mapping[str, Any] = entry
            return found
    raise LookupError(
        f"{setting} is not in published.json: run python -m recommender.knowledge.publish."
    )
