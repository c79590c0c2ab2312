"""The walk over a config, which copies what is allowed and refuses the rest."""

from __future__ import annotations

from typing import Any

from api.gate import allowed
from api.gate.limits import MAX_LAYERS
from api.gate.records import Place, Refused
from api.gate.refusals import ADVISE, malformed, not_allowed, pointer, quote, unknown_class
from api.gate.text import bound
from api.gate.values import check_array, check_number, check_product, check_tensor, check_text


class Walk:
    """One pass over a config, which copies what is allowed and raises at what is not."""

    def __init__(self) -> None:
        self.nodes = 0
        self.layers = 0
        self.shared: dict[int, tuple[str, str]] = {}
        self.unfinished: set[int] = set()

    def value(self, value: Any, path: Place, key: str = "") -> Any:
        """A checked copy of any JSON value; `key` is the nearest key above it."""
        self.count(path)
        if isinstance(value, dict):
            if "class_name" in value:
                return self.keras_object(value, path)
            return {
                check_text(name, path): self.value(item, (*path, name), name)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            check_product(value, path, key)
            return [self.value(item, (*path, i), key) for i, item in enumerate(value)]
        if isinstance(value, str):
            return check_text(value, path, key)
        if isinstance(value, (int, float)):
            return check_number(value, path, key)
        if value is not None:
            raise malformed(f"A value is of type {quote(type(value).__name__)}.", path)
        return value

    def keras_object(
        self, value: dict[Any, Any], path: Place, inside: Place | None = None
    ) -> dict[str, Any]:
        """A checked copy of what Keras would make an object of.

        Args:
            value: The dict with a "class_name".
            path: Where it stands.
            inside: Where its "config" stands, if not below it.
        """
        name, module, config = (value.get(key) for key in ("class_name", "module", "config"))
        if name in ("__keras_tensor__", "__numpy__", "__tensor__"):
            inner = self.value(config, (*path, "config"), "config")
            check = check_tensor if name == "__keras_tensor__" else check_array
            check(inner, (*path, "config"))
            return {"class_name": name, "config": inner}
        if name == "function":
            return self.function(value, path)
        kind = (module, name) if isinstance(module, str) and isinstance(name, str) else ("", "")
        if kind not in allowed.CLASSES:
            raise unknown_class(module, name, path)
        registered = value.get("registered_name")
        if registered not in (None, name):
            raise not_allowed(f"the registered name {quote(registered)}", path, "registered_name")
        if not isinstance(config, dict) or "class_name" in config:
            raise malformed(f"The config of {name} is not a plain object.", path)
        self.layers += kind in allowed.GRAPH_CLASSES
        if self.layers > MAX_LAYERS:
            raise Refused(
                "model_too_large",
                f"The model has more than {MAX_LAYERS} layers, which is the limit. Send a smaller "
                f"model, {ADVISE}.",
                pointer(path),
            )
        inside = (*path, "config") if inside is None else inside
        shared = self.begin_shared(value, kind, path)
        found = {
            "module": module,
            "class_name": name,
            "config": self.value(config, inside),
            "registered_name": registered,
            **shared,
        }
        self.unfinished -= set(shared.values())
        self.check_inside(found, kind, inside)
        in_graph = kind in allowed.GRAPH_CLASSES and "inbound_nodes" in value
        for key, item in value.items():
            if in_graph and key in ("name", "inbound_nodes"):
                found[key] = self.value(item, (*path, key), key)
            elif key not in found:
                self.dropped(item, (*path, key))
        return found

    def function(self, value: dict[Any, Any], path: Place) -> dict[str, Any]:
        """A reference to one of Keras' activation functions."""
        module, name = value.get("module"), value.get("config")
        registered = value.get("registered_name")
        known = module in ("builtins", "keras.activations")
        if not known or not allowed.is_in(name, allowed.ACTIVATIONS):
            raise not_allowed(f"the function {quote(module)}.{quote(name)}", path, "config")
        if registered not in (None, "function", name):
            raise not_allowed(f"the registered name {quote(registered)}", path, "registered_name")
        keys = ("module", "class_name", "config", "registered_name")
        return {key: value.get(key) for key in keys}

    def begin_shared(
        self, value: dict[Any, Any], kind: tuple[str, str], path: Place
    ) -> dict[str, int]:
        """The id under which Keras shares an object, which means one class and no cycle."""
        if "shared_object_id" not in value:
            return {}
        number = value["shared_object_id"]
        if not isinstance(number, int) or number in self.unfinished:
            raise not_allowed("a shared object that holds itself", path, "shared_object_id")
        if self.shared.setdefault(number, kind) != kind:
            raise not_allowed("one shared object of two classes", path, "shared_object_id")
        self.unfinished.add(number)
        return {"shared_object_id": number}

    def check_inside(self, found: dict[str, Any], kind: tuple[str, str], inside: Place) -> None:
        """What the config of a class must hold, beyond what any config may hold."""
        config = found["config"]
        if kind == allowed.POLICY and not (
            config.keys() == {"name"} and allowed.is_in(config["name"], allowed.DTYPES)
        ):
            raise not_allowed("a dtype policy other than by name", inside)
        if kind in allowed.MODELS or found["class_name"] == "Pipeline":
            layers = config.get("layers")
            if not isinstance(layers, list):
                raise malformed("A model's config must have a list of layers.", inside)
            for i, layer in enumerate(layers):
                if not isinstance(layer, dict) or not allowed.is_in_graph(layer):
                    raise malformed("An entry of layers is not a layer.", (*inside, "layers", i))
        if kind in allowed.MODELS and kind[1] != "Sequential":
            missing = {"input_layers", "output_layers"} - config.keys()
            if missing:
                raise malformed(f"The model's config has no {min(missing)}.", inside)

    def dropped(self, value: Any, path: Place) -> None:
        """What is not kept may be anything but an attempt to run code."""
        self.count(path)
        if isinstance(value, dict):
            if allowed.is_in(value.get("class_name"), allowed.CODE_CARRIERS):
                raise unknown_class(value.get("module"), value["class_name"], path)
            for key, item in value.items():
                self.dropped(item, (*path, key))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self.dropped(item, (*path, i))

    def count(self, path: Place) -> None:
        """Bounds the walk itself, whatever built the config."""
        self.nodes += 1
        bound(len(path), self.nodes, path)
