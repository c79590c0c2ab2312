"""Finds the classes in the family folders: by name, or all of them."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

PACKAGE = __name__.rpartition(".")[0]
# What a rule gets to see names its folder.
OPTIMIZER_FAMILIES = (
    "gradient",
    "closure",
    "gradient_free",
    "hybrid",
    "learned",
    "wrappers",
)
OTHER_FAMILIES = ("transforms", "schedules", "switches")


def members(package: str) -> dict[str, type]:
    """The public classes that the modules of a package define, by class name.

    Args:
        package: Dotted name of the package, e.g. "keras_gradopt.schedules".
    """
    folder = importlib.import_module(package)
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and not name.startswith("_"):
                found[name] = value
    return found


def families() -> dict[str, dict[str, type]]:
    """The optimizer classes by family folder; families without a folder yet are left out."""
    existing = [f for f in OPTIMIZER_FAMILIES if importlib.util.find_spec(f"{PACKAGE}.{f}")]
    return {family: members(f"{PACKAGE}.{family}") for family in existing}


def optimizer_classes() -> dict[str, type]:
    """Every optimizer class, by class name, sorted."""
    found = {name: cls for family in families().values() for name, cls in family.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


@functools.cache
def load() -> None:
    """Imports every family, which registers all classes for saving and loading."""
    optimizer_classes()
    for family in OTHER_FAMILIES:
        members(f"{PACKAGE}.{family}")


def get(identifier: Any) -> Any:
    """An optimizer from its name, its config, or itself.

    Args:
        identifier: A name in any spelling ("rmsprop", "RMSprop", "keras_gradopt>RMSprop"), a
            config as `keras.saving.serialize_keras_object` gives it, or an optimizer.

    Returns:
        The optimizer; made from a name it has default arguments.

    Raises:
        ValueError: No method has this name; the message lists similar ones.

    Example:
        >>> get("adam").beta_1
        0.9
    """
    import keras

    if isinstance(identifier, keras.optimizers.Optimizer):
        return identifier
    if isinstance(identifier, dict):
        load()
        return keras.saving.deserialize_keras_object(identifier)
    cls = find(identifier)
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{cls.__name__} cannot be made from its name alone ({error}). Make it with "
            f"keras_gradopt.{cls.__name__}{inspect.signature(cls)}."
        ) from error


def find(name: Any) -> type:
    """The optimizer class of a name in any spelling.

    Raises:
        ValueError: No method has this name; the message lists similar ones.
    """
    classes = {plain(n): cls for n, cls in optimizer_classes().items()}
    wanted = plain(str(name).rpartition(">")[2])
    if not isinstance(name, str) or wanted not in classes:
        import difflib

        near = [classes[n].__name__ for n in difflib.get_close_matches(wanted, classes, n=3)]
        known = ", ".join(cls.__name__ for cls in classes.values())
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"Unknown optimizer {name!r}.{guess} Known are {known}.")
    return classes[wanted]


def plain(name: str) -> str:
    """A name without case, hyphens and underscores, for comparing spellings."""
    return name.lower().replace("-", "").replace("_", "")


def lazy_members(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package whose modules each define one public class."""

    def __getattr__(name: str) -> Any:
        if name[:1].isupper():
            load()
            found = members(package)
            if name in found:
                return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted([*vars(sys.modules[package]), *members(package)])

    return __getattr__, __dir__


def load_with_keras() -> None:
    """Registers all classes now if Keras is loaded, else as soon as it is.

    So `load_model` and `compile(optimizer="keras_gradopt>...")` know our classes after a plain
    `import keras_gradopt`, which by itself must not import Keras.
    """
    if "keras" in sys.modules:
        load()
    else:
        sys.meta_path.insert(0, _KerasWatcher())


class _KerasWatcher(importlib.abc.MetaPathFinder):
    """Lets Keras import as usual, then loads our families."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run_keras = spec.loader.exec_module

        def run_then_load(module: Any) -> None:
            run_keras(module)
            # Where one of our own modules is what imports Keras, it is half made: whoever asks the
            # package for a class next loads the families.
            if not _importing():
                load()

        spec.loader.exec_module = run_then_load  # type: ignore[method-assign]
        return spec


def _importing() -> bool:
    """Whether a module of ours is being imported right now."""
    return any(
        name.startswith(f"{PACKAGE}.") and getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
    )
