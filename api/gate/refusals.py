"""The refusals, each with what was received, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Collection

from api.gate.limits import ECHO
from api.gate.records import Place, Refused

ADVISE = "or use the library on your own machine: `gradopt advise`"


def not_allowed(what: str, path: Place, *deeper: str) -> Refused:
    """A class, function or name outside the tables, in one place of the config."""
    return Refused(
        "model_class_not_allowed",
        f"The model asks for {what}. Only Keras' own layers are accepted; custom layers are not, "
        "nor are those that run code, read files or hold a vocabulary. Take it out of the model, "
        f"{ADVISE}.",
        pointer((*path, *deeper)),
    )


def unknown_class(module: object, name: object, path: Place) -> Refused:
    """A class outside the tables; for an operation, with advice to use a layer."""
    if isinstance(module, str) and module.startswith("keras.src.ops."):
        return Refused(
            "model_class_not_allowed",
            f"The model computes {quote(name)} with keras.ops or by an operator. Only layers and "
            "+ - * / between them are accepted. Write it as a layer, such as keras.layers.Reshape, "
            f"{ADVISE}.",
            pointer((*path, "class_name")),
        )
    return not_allowed(f"the class {quote(name)} of {quote(module)}", path, "class_name")


def malformed(what: str, path: Place = ()) -> Refused:
    """No JSON, or none that Keras would write."""
    return Refused(
        "malformed_json",
        f"{what} The JSON of a Keras 3 model is expected. Send what model.to_json() or "
        "model.save('model.keras') wrote, unchanged.",
        pointer(path),
    )


def suspicious(what: str) -> Refused:
    """An archive that is not what it should be."""
    return Refused(
        "archive_suspicious",
        f"{what}. A plain archive without such irregularities is expected. Write the file again "
        "with model.save('model.keras') or numpy.savez(path, x=x, y=y).",
    )


def too_large(what: str) -> Refused:
    """An archive with too many bytes, packed or unpacked."""
    return Refused("archive_too_large", f"{what}. Send less, {ADVISE}.")


def mismatch(detail: str) -> Refused:
    """Arrays that do not fit together; the detail is the whole message."""
    return Refused("dataset_shape_mismatch", detail)


def not_numbers(name: str, what: str) -> Refused:
    """An array of something else than numbers."""
    return Refused(
        "dataset_object_dtype",
        f"{name} holds {what}; only booleans, integers and floats of 1 to 8 bytes are read. Save "
        "numbers: encode text and categories first, and convert with array.astype('float32').",
    )


def no_npy(name: str, what: str) -> Refused:
    """A member of an .npz file that is no array."""
    return suspicious(f"{name} holds {what}")


def quote(value: object) -> str:
    """A value of the upload as an error may show it: the beginning of a text, else its kind."""
    text = value if isinstance(value, str) else kind_of(value)
    shown = ascii(text[:ECHO]) if isinstance(value, str) else text
    return shown + "…" * (len(text) > ECHO)


def kind_of(value: object) -> str:
    """The kind of a JSON value, in words."""
    kinds = {type(None): "null", bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number" if isinstance(value, (int, float)) else "no JSON")


def listed(members: Collection[str]) -> str:
    """The first names of an archive's members."""
    shown = ", ".join(quote(name) for name in list(members)[:3])
    return shown + ", …" * (len(members) > 3)


def pointer(path: Place) -> str | None:
    """The JSON pointer to a place, cut to what an error may show; None for the whole."""
    tokens = (str(step)[:ECHO].replace("~", "~0").replace("/", "~1") for step in path)
    text = "".join(f"/{token}" for token in tokens)
    return text.encode("unicode_escape").decode()[:200] or None
