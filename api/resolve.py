"""What a request names, looked up: facts for the instant answer, a specification for a probe."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from api.errors import ApiError, error_at
from api.gate import ModelFacts as Gated
from api.gate import check_model_config
from api.library import Library
from api.schemas.asked import (
    AdviceRequest,
    DataRef,
    DataSummary,
    ModelConfig,
    ModelRef,
    ModelSummary,
    RecommendationRequest,
)
from recommender import length
from recommender.executors import ProbeSpec
from recommender.instant import DataFacts, ModelFacts, family_facts, instant
from recommender.knowledge import published

Plain = dict[str, Any]
SAMPLE_PREFIX = "sample:"
EPOCHS, BATCH_SIZE = 20, 32
# Layers without weights; all others count for the depth.
WEIGHTLESS = ("Flatten", "Reshape", "Dropout", "Pooling", "Activation", "Input", "Add", "Concat")
TASKS = {
    "sparse_categorical_crossentropy": "classification",
    "categorical_crossentropy": "classification",
    "binary_crossentropy": "binary",
}


@dataclass(frozen=True)
class Resolved:
    """A request with everything looked up.

    Attributes:
        model, data: Facts for the instant answer.
        epochs, batch_size: Of one full training.
        model_spec, data_spec, loss_spec: For `ProbeSpec`; a data set is still named by its hash.
        seed: As asked.
    """

    model: ModelFacts
    data: DataFacts
    epochs: int
    batch_size: int
    model_spec: Plain
    data_spec: Plain
    loss_spec: Plain | None
    seed: int

    def advice(self) -> Plain:
        """The instant answer."""
        return instant(
            self.model,
            self.data,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
        )

    def spec(self, asked: RecommendationRequest) -> Plain:
        """What the probe is to do."""
        return ProbeSpec(
            model=self.model_spec,
            data=self.data_spec,
            loss=self.loss_spec,
            epochs=self.epochs,
            batch_size=self.batch_size,
            tier=asked.tier,
            max_seconds=asked.max_seconds,
            objective=asked.objective,
            include=tuple(asked.include),
            seed=asked.seed,
        ).to_dict()


def resolve(asked: AdviceRequest, library: Library) -> Resolved:
    """Look up what a request names.

    Args:
        asked: The request.
        library: Uploads.

    Raises:
        ApiError: An id leads nowhere, or the parts do not fit together.
        Refused: A model's config is not let in.
    """
    training = asked.training
    sample = sample_of(asked.data.id) if isinstance(asked.data, DataRef) else None
    batch_size = training.batch_size or (sample or {}).get("batch_size") or BATCH_SIZE
    outputs = _outputs(asked.data, sample)
    model, model_spec, own_loss = _model(asked.model, asked.data, outputs, library, sample)
    loss: Plain | None = None
    if training.loss is not None:
        loss = {"name": training.loss, "from_logits": training.from_logits}
    data, data_spec = _data(asked.data, loss or own_loss, library, sample)
    if batch_size > data.samples:
        detail = (
            f"batch_size is {batch_size}, but only {data.samples} training examples are there. "
            "Give a smaller batch_size or more data."
        )
        raise error_at("/training/batch_size", "impossible_budget", detail)
    if isinstance(asked, RecommendationRequest):
        for name in asked.include:
            check_optimizer(name)
    return Resolved(
        model=model,
        data=data,
        epochs=training.epochs or (sample or {}).get("epochs") or EPOCHS,
        batch_size=batch_size,
        model_spec=model_spec,
        data_spec=data_spec,
        # A sample's own loss is made where it is probed.
        loss_spec=loss or (None if model_spec["kind"] == "sample" else own_loss),
        seed=asked.seed,
    )


def sample_names() -> list[str]:
    """The ids of the sample data sets."""
    return [SAMPLE_PREFIX + one["name"] for one in published()["samples"]]


def sample_of(name: str) -> Plain | None:
    """What is published of a sample; None where the id is no sample's.

    Raises:
        ApiError: There is no sample of this name.
    """
    if not name.startswith(SAMPLE_PREFIX):
        return None
    for one in published()["samples"]:
        if one["name"] == name.removeprefix(SAMPLE_PREFIX):
            found: Plain = one
            return found
    raise ApiError(
        "not_found", f"There is no sample {name!r}. Known are {', '.join(sample_names())}."
    )


def _outputs(data: DataSummary | DataRef, sample: Plain | None) -> int:
    """Width of the last layer of a model described for this data."""
    if isinstance(data, DataSummary):
        return data.classes if data.task == "classification" else data.outputs
    return (sample or {}).get("classes") or 1


def _model(
    model: ModelSummary | ModelConfig | ModelRef,
    data: DataSummary | DataRef,
    outputs: int,
    library: Library,
    sample: Plain | None,
) -> tuple[ModelFacts, Plain, Plain | None]:
    if isinstance(model, ModelSummary):
        shape = data.shape if isinstance(data, DataSummary) else (sample or {}).get("shape")
        if shape is None:
            assert isinstance(data, DataRef)  # a summary has a shape
            shape = library.dataset(data.id).arrays["x"]["shape"][1:]
        facts = family_facts(
            model.family, model.widths, shape, outputs, batch_norm=model.batch_norm
        )
        spec = {
            "kind": "family",
            "family": model.family,
            "units": model.widths,
            "batch_norm": model.batch_norm,
            "dropout": model.dropout,
        }
        return facts, spec, None
    if isinstance(model, ModelRef):
        one = sample_of(model.id)
        if one is not None:
            facts = ModelFacts(one["layers"], _depth(one["layers"]), one["parameters"])
            return facts, {"kind": "sample", "name": one["name"]}, one["loss"]
        kept = library.model(model.id)
        facts = ModelFacts(kept.facts["layers"], _depth(kept.facts["layers"]))
        return facts, {"kind": "config", "config": kept.config}, kept.facts["loss"]
    gated: Gated = check_model_config(model.config)
    loss = None
    if gated.loss is not None:
        loss = {"name": gated.loss.name, "from_logits": gated.loss.from_logits}
    facts = ModelFacts(gated.layers, _depth(gated.layers))
    return facts, {"kind": "config", "config": gated.config}, loss


def _data(
    data: DataSummary | DataRef, loss: Plain | None, library: Library, sample: Plain | None
) -> tuple[DataFacts, Plain]:
    if isinstance(data, DataSummary):
        classify = data.task == "classification"
        facts = DataFacts(
            samples=data.samples,
            shape=tuple(data.shape),
            task=data.task,
            classes=data.classes if classify else None,
            largest_class=data.imbalance if classify else None,
            zero_share=data.sparsity,
        )
        return facts, data.model_dump()
    if sample is not None:
        facts = DataFacts(
            samples=sample["samples"],
            shape=tuple(sample["shape"]),
            task=sample["task"],
            classes=sample["classes"],
        )
        return facts, {"kind": "sample", "name": sample["name"]}
    kept = library.dataset(data.id)
    x, y = kept.arrays["x"], kept.arrays["y"]
    rows, columns = x["shape"][0], y["shape"][1:]
    labels = not y["dtype"].startswith("float") and columns in ([], [1])
    notes: tuple[str, ...] = ()
    if "x_val" not in kept.arrays:
        held = length.held_out(rows, classes=labels)
        rows -= held
        notes = (f"no validation_data given: {held} examples were held out",)
    by_targets = "classification" if labels else "regression"
    task = by_targets if loss is None else TASKS.get(loss["name"], "regression")
    facts = DataFacts(samples=rows, shape=tuple(x["shape"][1:]), task=task, notes=notes)
    return facts, {
        "kind": "blob",
        "sha256": kept.sha256,
        "format": kept.format,
        "target": kept.target,
    }


def _depth(layers: dict[str, int]) -> int:
    return sum(n for name, n in layers.items() if not any(part in name for part in WEIGHTLESS))


def check_optimizer(name: str) -> None:
    """Refuse a name that no probe can try.

    Raises:
        ApiError: It is unknown, or cannot be tried by name.
    """
    known = {_plain(one["name"]): one for one in published()["optimizers"]}
    entry = known.get(_plain(name))
    if entry is None:
        near = [known[n]["name"] for n in difflib.get_close_matches(_plain(name), known, n=3)]
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        detail = f"There is no optimizer {name!r}.{guess} See /v1/catalog/optimizers."
        raise error_at("/include", "unknown_optimizer", detail)
    arguments = {argument["name"] for argument in entry["hyperparameters"]}
    is_wrapper = entry["needs"] == "gradient" and "learning_rate" not in arguments
    if entry["needs"] == "dataset" or is_wrapper:
        detail = (
            f"{entry['class_name']} needs passes over all data or wraps another optimizer; it "
            "cannot be tried by name. Leave it out."
        )
        raise error_at("/include", "unknown_optimizer", detail)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
