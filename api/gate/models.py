"""The check of a model, as a .keras file or as its config."""

from __future__ import annotations

from pathlib import Path

from api.gate import allowed
from api.gate.archive import open_archive
from api.gate.config import Walk
from api.gate.facts import read_facts
from api.gate.limits import MAX_CONFIG_BYTES
from api.gate.records import ModelFacts, Refused
from api.gate.refusals import kind_of, listed, malformed, quote
from api.gate.size import check_size
from api.gate.text import parse_json


def check_model_archive(path: Path) -> ModelFacts:
    """Check a .keras file by its config alone.

    Its weights are never read: the model is rebuilt from the config with fresh weights.

    Args:
        path: The upload on disk; its name means nothing.

    Returns:
        The facts, as from `check_model_config`.

    Raises:
        Refused: When it is no plain .keras archive, or its model is not allowed.
    """
    with open_archive(path, "a .keras file, as model.save('model.keras') writes it") as archive:
        config = archive.members.get("config.json")
        if config is None:
            raise Refused(
                "unsupported_type",
                f"The archive holds {listed(archive.members)}, but no config.json, so it is not a "
                ".keras file. Save the model with model.save('model.keras').",
            )
        archive.allow_only("config.json", "metadata.json", "model.weights.h5")
        data = archive.read(config, MAX_CONFIG_BYTES)
    return check_model_config(parse_json(data))


def check_model_config(config: object) -> ModelFacts:
    """Check a model config against the tables of `api.gate.allowed`.

    Args:
        config: Parsed JSON of `model.to_json()`, of `keras.saving.serialize_keras_object(model)`
            or of `model.get_config()`.

    Returns:
        The facts. Their config is a copy built from checked parts only.

    Raises:
        Refused: At the first class, text or number that is not allowed.
    """
    if not isinstance(config, dict):
        raise malformed(f"The config is {kind_of(config)}, not an object.")
    walk = Walk()
    if "class_name" in config:
        model = walk.keras_object(config, ())
    elif "layers" in config:  # get_config() leaves out the class
        functional = "input_layers" in config
        module, name = allowed.FUNCTIONAL if functional else allowed.SEQUENTIAL
        registered = name if functional else None
        wrapped = {"module": module, "class_name": name, "registered_name": registered}
        model = walk.keras_object({**wrapped, "config": config}, (), inside=())
    else:
        raise malformed("The config has neither class_name nor layers.")
    if not allowed.is_model(model):
        raise malformed(f"The config describes {quote(model['class_name'])}, not a model.")
    kept = {key: model[key] for key in ("module", "class_name", "config", "registered_name")}
    check_size(kept)
    return read_facts(kept, config.get("compile_config"))
