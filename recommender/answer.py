"""The shape of an answer as plain data: the same for measured advice and for the instant one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Plain = dict[str, Any]


def schedule_parts(shape: str, steps: int) -> dict[str, int]:
    """Steps of the three parts of the advised schedule; none where the rate is constant.

    Args:
        shape: "constant" or "late_cooldown".
        steps: Length of the training, at least 1.
    """
    # Not at the top: it brings NumPy, whose threads would be there before a jail is closed.
    from recommender.knowledge.grid import COOLDOWN

    if shape == "constant":
        return {}
    decay = max(1, round(COOLDOWN * steps))
    return {"warmup_steps": 0, "stable_steps": steps - decay, "decay_steps": decay}


def code(
    class_name: str,
    learning_rate: float,
    config: Sequence[tuple[str, Any]],
    shape: str,
    steps: int,
    *,
    keras_default: bool = False,
) -> str:
    """Python text that makes the advised optimizer; runs as it stands on every backend.

    Args:
        class_name: The optimizer's class in `keras_gradopt`, or in Keras for its own default.
        learning_rate: Peak rate.
        config: Further constructor arguments.
        shape: "constant" or "late_cooldown".
        steps: Length of the training.
        keras_default: Whether it is Keras' own class.
    """
    if keras_default:
        return (
            "import keras\n\n"
            f"optimizer = keras.optimizers.{class_name}(learning_rate={learning_rate!r})\n"
        )
    extra = "".join(f", {key}={value!r}" for key, value in config)
    if shape == "constant":
        return (
            "import keras_gradopt\n\n"
            f"optimizer = keras_gradopt.{class_name}(learning_rate={learning_rate!r}{extra})\n"
        )
    parts = ", ".join(f"{key}={value}" for key, value in schedule_parts(shape, steps).items())
    return (
        "import keras_gradopt\n\n"
        "schedule = keras_gradopt.schedules.WarmupStableDecay(\n"
        f"    peak={learning_rate!r}, {parts}\n)\n"
        f"optimizer = keras_gradopt.{class_name}(learning_rate=schedule{extra})\n"
    )


def on_backend(text: str, backend: str) -> str:
    """The same Python text for a backend, which is chosen before Keras is imported.

    Args:
        text: What `code` or `bound_code` gives.
        backend: "jax", "torch" or "tensorflow".
    """
    chosen = f'os.environ["KERAS_BACKEND"] = "{backend}"  # before Keras is imported'
    return f"import os\n\n{chosen}\n\n{text}"


def bound_code(
    class_name: str,
    arguments: Sequence[tuple[str, Any]],
    batch_size: int | None,
    epochs: int | None,
) -> str:
    """Python text that makes an optimizer which evaluates the loss again, and says how to fit.

    Args:
        class_name: The optimizer's class in `keras_gradopt`.
        arguments: Of its constructor.
        batch_size: What `model.fit` takes; None, where nothing was tried, is all examples.
        epochs: What `model.fit` takes; None says nothing of it.
    """
    given = ", ".join(f"{key}={value!r}" for key, value in arguments)
    size = "len(x)" if batch_size is None else batch_size
    length = "" if epochs is None else f", epochs={epochs}"
    return (
        "import keras_gradopt\n\n"
        f"optimizer = keras_gradopt.{class_name}({given})\n"
        "# It evaluates the loss again, so the model has to be bound:\n"
        "# model = keras_gradopt.bind(model)\n"
        "# model.compile(optimizer=optimizer, loss=loss)\n"
        f"# model.fit(x, y, batch_size={size}{length})\n"
    )


def answer(
    *,
    recommended: Plain,
    decision: Plain,
    expected: Plain,
    evidence: str,
    probes: Sequence[Plain],
    diagnostics: Plain | None,
    description: Plain,
    nearest: Sequence[tuple[str, str, float]],
    notes: Sequence[str],
    alternatives: Sequence[Plain],
    cost: Plain,
    findings: Sequence[Plain],
    changes: Sequence[Plain],
    request: Plain,
    versions: Mapping[str, str],
) -> Plain:
    """Everything of an advice, ready for JSON.

    Args:
        recommended: Label, optimizer as Keras serialises it, rate, schedule, length and code.
        decision: Basis, code and reasons.
        expected: The forecast.
        evidence: "measured", "prior" or "synthetic".
        probes: One entry per probe.
        diagnostics: What the checks saw, or None.
        description: Facts about model and data.
        nearest: Recorded tasks most like this one: name, summary and weight.
        notes: Remarks on how the answer was found.
        alternatives: Label, role and reason of what else was considered.
        cost: What was spent.
        findings: Code, text and `blocking` of each warning.
        changes: What is proposed to change beside the optimizer: code of the finding, change,
            reason, `measured_effect` (relative change of the validation loss, below 0 is better,
            or "not tested"), its `standard_error`, `step`, `recommended`, and a verdict in words.
        request: Tier and seed.
        versions: What the answer depends on.
    """
    return {
        "recommended": recommended,
        "decision": decision,
        "expected": expected,
        "evidence": {
            "kind": evidence,
            "probes": list(probes),
            "diagnostics": diagnostics,
            "description": description,
            "nearest_tasks": [
                {"name": name, "summary": summary, "weight": round(weight, 4)}
                for name, summary, weight in nearest
            ],
            "notes": list(notes),
        },
        "alternatives": list(alternatives),
        "cost": cost,
        "warnings": list(findings),
        "architecture_advice": list(changes),
        "request": request,
        "versions": dict(versions),
    }


def recommended(
    label: str,
    optimizer: Plain,
    rate: float,
    shape: str,
    steps: int,
    text: str,
    fit: Plain | None = None,
) -> Plain:
    """The answer itself, as the field `recommended` holds it; `fit` None trains as asked."""
    return {
        "label": label,
        "optimizer": optimizer,
        "learning_rate": rate,
        "schedule": {"shape": shape, **schedule_parts(shape, steps)},
        "total_steps": steps,
        "code": text,
        "fit": fit,
    }
