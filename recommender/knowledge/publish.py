"""Writes published.json: the catalogue and the instant answer for readers that do not import Keras.

    KERAS_BACKEND=jax python -m recommender.knowledge.publish

A test compares the file with the live classes and says when to run this again.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import keras

import keras_gradopt
from keras_gradopt import catalogue
from recommender import demo_tasks
from recommender.answer import Plain
from recommender.candidates import Candidate, Shape, hurdle
from recommender.knowledge.prior import CHOICES
from recommender.report import config_of, make_optimizer
from recommender.settings import Setting
from recommender.task import Task

TARGET = Path(__file__).with_name("published.json")
# The schedule's steps in a published config are filled in by whoever knows the length.
STEPS = 4


def published() -> Plain:
    """Everything that the file holds, from the live code."""
    found = {
        "versions": {"keras": keras.__version__, "keras_gradopt": keras_gradopt.__version__},
        "optimizers": [one.to_dict() for one in catalogue.methods()],
        "schedules": [one.to_dict() for one in catalogue.schedules()],
        "settings": [_setting(one) for one in dict.fromkeys(c.setting for c in CHOICES)],
        "default": config_of(make_optimizer(hurdle(), STEPS)),
        "samples": [_sample(task) for task in demo_tasks.TASKS.values()],
    }
    plain: Plain = json.loads(json.dumps(found, allow_nan=False))
    return plain


def _setting(setting: Setting) -> Plain:
    shapes: tuple[Shape, ...] = ("constant", "late_cooldown")
    return {
        "method": setting.method,
        "learning_rate": setting.learning_rate,
        "config": dict(setting.config),
        "label": setting.label,
        "class_name": setting.class_name,
        "state_multiple": catalogue.state_multiple(setting.optimizer()),
        "optimizer": {
            shape: config_of(make_optimizer(Candidate(setting, shape, "portfolio", 1.0, ""), STEPS))
            for shape in shapes
        },
    }


def _sample(task: Task) -> Plain:
    x, y, x_val, _ = task.load()
    loss = task.loss()
    model = task.model(0)
    name = "".join("_" + c.lower() if c.isupper() else c for c in type(loss).__name__).lstrip("_")
    labels = y.dtype.kind in "iu"
    layers: dict[str, int] = {}
    for layer in model.layers:
        kind = type(layer).__name__
        layers[kind] = layers.get(kind, 0) + 1
    return {
        "name": task.name,
        "summary": inspect.cleandoc(task.summary),
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "loss": {"name": name, "from_logits": bool(loss.get_config().get("from_logits", False))},
        "samples": len(y),
        "validation_samples": len(x_val),
        "shape": list(x.shape[1:]),
        "dtype": str(x.dtype),
        "task": "classification" if labels else "regression",
        "classes": int(model.output_shape[-1]) if labels else None,
        "layers": dict(sorted(layers.items())),
        "parameters": int(model.count_params()),
    }


def main() -> None:
    """Write the file."""
    text = json.dumps(published(), indent=1, sort_keys=True, ensure_ascii=False)
    TARGET.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
