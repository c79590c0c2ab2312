"""The laws of the tree, read off the syntax trees: who imports whom, and who may name what."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parent.parent

# Each package may import itself and those after it.
PACKAGES = ("api", "recommender", "keras_gradopt")
FRAMEWORKS = frozenset({"jax", "jaxlib", "tensorflow", "torch", "flax", "optax"})

# Files outside keras_gradopt/backend/ that may import a framework, each with its reason.
FRAMEWORK_EXCEPTIONS: dict[str, str] = {
    "recommender/population_jax.py": "candidates share one compiled step, a switch within a scan",
    "recommender/population_tensorflow.py": "a chunk of steps is one graph with a loop in it",
}

# Modules that may touch what Keras keeps private.
KERAS_INSIDERS = (
    "keras_gradopt/optimizer.py",  # the base class: feeds Keras' own hooks
    "keras_gradopt/model_loss.py",  # the loss as Keras' trainers compute it
    "keras_gradopt/readings.py",  # the loss of each example, at weights that a trainer holds
    "keras_gradopt/binding.py",  # puts a train step on one model
    "keras_gradopt/full_pass.py",  # reads a dataset as the trainers do
    "keras_gradopt/batch_norm.py",  # finds layers within layers
    "keras_gradopt/layers.py",  # so does this
    "keras_gradopt/likelihood.py",  # the parts of a compiled loss, and how Keras reduces one
    "keras_gradopt/composite.py",  # the base class that holds Keras' own optimizers
    "keras_gradopt/wrappers/__init__.py",  # steps them
    "keras_gradopt/hybrid/__init__.py",  # so does this
    "keras_gradopt/backend/",  # each trainer's own ways
)
# Where Keras' classes and trainers are written: their underscore names are private to Keras.
KERAS_SOURCES = (
    "optimizers/base_optimizer.py",
    "optimizers/loss_scale_optimizer.py",
    "optimizers/schedules/learning_rate_schedule.py",
    "trainers/trainer.py",
    "trainers/compile_utils.py",
    "backend/jax/trainer.py",
    "backend/tensorflow/trainer.py",
    "backend/torch/trainer.py",
    "backend/common/variables.py",
    "layers/layer.py",
    "models/model.py",
    "utils/tracking.py",
)

OPTIMIZER_FAMILIES = ("gradient", "closure", "gradient_free", "hybrid", "learned", "wrappers")
FAMILIES = (*OPTIMIZER_FAMILIES, "transforms", "schedules", "switches", "sampling", "callbacks")
# A family may take another's sign on the door (its __init__), never one of its rules, and says why.
NEIGHBOURS: dict[tuple[str, str], str] = {
    ("closure", "wrappers"): "SAM moves the weights, then lets an inner optimizer take the step",
    ("hybrid", "switches"): "a hybrid keeps the state of its switch and asks it after each step",
}
# Files of a family folder that may import the backend, each with its reason.
BACKEND_USERS: dict[str, str] = {
    "keras_gradopt/closure/__init__.py": "keeps torch.compile away from steps it cannot follow",
    "keras_gradopt/hybrid/__init__.py": (
        "the base class lets one part step inside a branch, which each backend has in its own way"
    ),
    "keras_gradopt/wrappers/__init__.py": (
        "the base class steps Keras' own optimizers, which assign in each backend's own way"
    ),
}

# Places that may say an optimizer's name as a string: the hurdle, which is Keras' own default.
NAME_EXCEPTIONS: dict[str, frozenset[str]] = {
    # The folder, which is called like the first of its rules.
    "keras_gradopt/registry.py": frozenset({"hybrid"}),
}


@dataclass(frozen=True)
class Source:
    """One Python file: its path in the project and its syntax tree."""

    path: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Dotted name, packages without `__init__`."""
        parts = self.path.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]

    def at(self, node: ast.AST) -> str:
        """Where a node stands, as editors understand it."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def read(text: str, path: str) -> Source:
    """A source from its text."""
    return Source(path, ast.parse(text, filename=path))


@dataclass(frozen=True)
class Tree:
    """The files of the packages, and the optimizers that their folders declare."""

    sources: list[Source]

    def named(self, dotted: str) -> bool:
        """Whether a module of that dotted name exists in the tree."""
        return any(source.module == dotted for source in self.sources)

    def imports(self, source: Source) -> Iterator[tuple[ast.AST, str]]:
        """Every module that a file imports, as a dotted name; `from a import b` may name a.b."""
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = node.module or ""
                if node.level:
                    up = source.package.split(".")[
                        : len(source.package.split(".")) - node.level + 1
                    ]
                    start = ".".join([*up, *([node.module] if node.module else [])])
                for alias in node.names:
                    deeper = f"{start}.{alias.name}"
                    yield node, deeper if self.named(deeper) else start

    def optimizers(self) -> dict[str, str]:
        """Each spelling of an optimizer's name, with the file that the name belongs to."""
        words: dict[str, str] = {}
        for source in self.sources:
            parts = source.path.split("/")
            inside = parts[0] == "keras_gradopt" and parts[1] in OPTIMIZER_FAMILIES
            if not inside or parts[-1] == "__init__.py":
                continue
            classes = [n.name for n in source.tree.body if isinstance(n, ast.ClassDef)]
            for name in (name for name in classes if not name.startswith("_")):
                for word in (name, name.lower(), snake_case(name), parts[-1].removesuffix(".py")):
                    words[word] = source.path
        return words


def snake_case(name: str) -> str:
    """AdaBelief → ada_belief, LBFGS → lbfgs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def tree_of(*files: tuple[str, str]) -> Tree:
    """A tree from (path, text) pairs; used to show that each law can fail."""
    return Tree([read(text, path) for path, text in files])


@pytest.fixture(scope="module")
def project() -> Tree:
    """The packages as they stand."""
    files = [f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]
    return Tree([read(f.read_text("utf-8"), f.relative_to(ROOT).as_posix()) for f in files])


def strings(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Every string constant that is not a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(source.tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node, node.value


def family_of(module: str) -> tuple[str, bool] | None:
    """The family that a module lies in, and whether it is a rule rather than the folder itself."""
    parts = module.split(".")
    if len(parts) < 2 or parts[0] != "keras_gradopt" or parts[1] not in FAMILIES:
        return None
    return parts[1], len(parts) > 2


# --- the laws: each returns the breaches as sentences ---


def imports_against_the_direction(tree: Tree) -> list[str]:
    """Imports go api → recommender → keras_gradopt → keras; the API does not even see Keras."""
    breaches = []
    for source in tree.sources:
        own = source.module.split(".")[0]
        forbidden = set(PACKAGES[: PACKAGES.index(own)])
        if own == "api":
            forbidden |= FRAMEWORKS | {"keras"}
        breaches += [
            f"{source.at(node)}: {own} imports {name}, against api → recommender → keras_gradopt → "
            "keras. Move what is needed down to the package that may have it."
            for node, name in tree.imports(source)
            if name.split(".")[0] in forbidden
        ]
    return breaches


def frameworks_outside_the_backend(tree: Tree) -> list[str]:
    """Only keras_gradopt/backend/ names a framework; exceptions are listed above."""
    breaches = []
    for source in tree.sources:
        if source.path.startswith("keras_gradopt/backend/") or source.path in FRAMEWORK_EXCEPTIONS:
            continue
        breaches += [
            f"{source.at(node)}: imports {name}. Only keras_gradopt/backend/ names a framework: "
            "use keras.ops, or give the backend room a function for it."
            for node, name in tree.imports(source)
            if name.split(".")[0] in FRAMEWORKS
        ]
        if source.path.startswith("keras_gradopt/"):
            breaches += [
                f"{source.at(node)}: names the framework {text!r}. Branches on the "
                "backend belong in keras_gradopt/backend/, as a function of each of its modules."
                for node, text in strings(source)
                if text in FRAMEWORKS
            ]
    return breaches


def keras_private_names() -> frozenset[str]:
    """The underscore names of Keras' own classes, read from its files without importing it."""
    spec = importlib.util.find_spec("keras")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "src"
    names: set[str] = set()
    for file in KERAS_SOURCES:
        for node in ast.walk(ast.parse((folder / file).read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.FunctionDef):
                names.add(node.name)
    return frozenset(name for name in names if re.match(r"_[a-z]", name))


def keras_private_access(tree: Tree, private: frozenset[str]) -> list[str]:
    """Keras' private modules and names are touched by the listed modules only."""
    breaches = []
    for source in tree.sources:
        if source.path.startswith(KERAS_INSIDERS):
            continue
        found = [
            (node, name)
            for node, name in tree.imports(source)
            if re.match(r"keras(\.\w+)*\.(src|_\w+)\b", name)
        ]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in private:
                found.append((node, node.attr))
            elif isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                found += [(method, method.name) for method in methods if method.name in private]
        # Classes of keras_gradopt with a base derive from Keras': there its names are taken.
        own = names_of_its_own(source, derived=not source.path.startswith("keras_gradopt/"))
        breaches += [
            f"{source.at(node)}: {name} is private to Keras. Only {', '.join(KERAS_INSIDERS)} "
            "touch such names: use the public one, or let keras_gradopt/optimizer.py offer it."
            for node, name in found
            if name not in own
        ]
    return breaches


def names_of_its_own(source: Source, *, derived: bool) -> set[str]:
    """Names that a file's classes define themselves: not Keras', even where spelled alike.

    Args:
        source: The file.
        derived: Whether classes with a base class count too.
    """
    names: set[str] = set()
    classes = [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]
    for node in (n for cls in classes if derived or not cls.bases for n in ast.walk(cls)):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def families_that_mix(tree: Tree) -> list[str]:
    """A family imports no other family's rules, not the backend, not the package's public names."""
    breaches = []
    for source in tree.sources:
        here = family_of(source.module)
        if here is None:
            continue
        for node, name in tree.imports(source):
            there = family_of(name)
            if there and there[0] != here[0]:
                if there[1]:
                    advice = "Rules of two families meet in hybrid/, as arguments of its classes."
                elif (here[0], there[0]) in NEIGHBOURS:
                    continue
                else:
                    advice = "If its base class is really needed, give the reason in NEIGHBOURS."
                breaches.append(f"{source.at(node)}: {here[0]}/ imports {name}. {advice}")
            elif name.split(".")[:2] == ["keras_gradopt", "backend"]:
                if source.path in BACKEND_USERS:
                    continue
                breaches.append(
                    f"{source.at(node)}: {here[0]}/ imports the backend. A rule is keras.ops only; "
                    "what needs a framework belongs to the base class or to the objective."
                )
            elif name == "keras_gradopt":
                breaches.append(
                    f"{source.at(node)}: {here[0]}/ imports the package itself, which hides what "
                    "it takes from it. Import the module: from keras_gradopt.tensors import ..."
                )
    return breaches


def names_said_elsewhere(tree: Tree) -> list[str]:
    """An optimizer's name is a string in its own file only: others find it by the registry."""
    words = tree.optimizers()
    breaches = []
    for source in tree.sources:
        if source.path.startswith("recommender/knowledge/"):
            continue
        for node, text in strings(source):
            word = text.rpartition(">")[2]
            if word not in words or words[word] == source.path:
                continue
            if word in NAME_EXCEPTIONS.get(source.path, ()):
                continue
            breaches.append(
                f"{source.at(node)}: {text!r} names the optimizer of {words[word]}. Ask "
                "the registry for what is needed (needs, family, a flag on the class), or make it "
                "data in recommender/knowledge/."
            )
    return breaches


# --- the project keeps them ---


def test_imports_point_one_way(project: Tree) -> None:
    report(imports_against_the_direction(project))


def test_only_the_backend_names_a_framework(project: Tree) -> None:
    report(frameworks_outside_the_backend(project))


def test_only_the_listed_modules_touch_what_keras_keeps_private(project: Tree) -> None:
    report(keras_private_access(project, keras_private_names()))


def test_families_do_not_mix(project: Tree) -> None:
    report(families_that_mix(project))


def test_no_optimizer_is_named_outside_its_own_file(project: Tree) -> None:
    report(names_said_elsewhere(project))


def test_every_exception_is_still_needed(project: Tree) -> None:
    """An exception that nothing uses any more is a hole in the law."""
    by_path = {source.path: source for source in project.sources}
    unused = [
        path
        for path in FRAMEWORK_EXCEPTIONS
        if path not in by_path
        or not any(name.split(".")[0] in FRAMEWORKS for _, name in project.imports(by_path[path]))
    ]
    unused += [
        f"{path} {word!r}"
        for path, allowed in NAME_EXCEPTIONS.items()
        for word in allowed
        if path not in by_path or word not in {text for _, text in strings(by_path[path])}
    ]
    crossings = {
        (family_of(source.module), family_of(name))
        for source in project.sources
        for _, name in project.imports(source)
    }
    pairs = {(a[0], b[0]) for a, b in crossings if a and b}
    unused += [
        path
        for path in BACKEND_USERS
        if path not in by_path
        or not any(".backend" in name for _, name in project.imports(by_path[path]))
    ]
    unused += [f"{pair[0]} → {pair[1]}" for pair in NEIGHBOURS if pair not in pairs]
    assert not unused, "take these exceptions out of tests/test_architecture.py: " + ", ".join(
        unused
    )


def test_importing_the_packages_does_not_import_keras() -> None:
    packages = [package for package in PACKAGES if (ROOT / package / "__init__.py").exists()]
    heavy = sorted({"keras", *FRAMEWORKS})
    program = (
        f"import sys, {', '.join(packages)}\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), (
        f"importing {', '.join(packages)} imports {done.stdout.strip()}: keep the __init__ lazy"
    )


def report(breaches: list[str]) -> None:
    """Fails with one breach to a line."""
    if breaches:
        pytest.fail("\n".join(breaches), pytrace=False)


# --- each law can fail ---

RULE = ("keras_gradopt/gradient/yogi.py", "class Yogi: ...")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("keras_gradopt/linalg.py", "import recommender"),
        ("keras_gradopt/linalg.py", "def f():\n    from recommender.probes import probe"),
        ("recommender/probes.py", "from api.jobs import Job"),
        ("api/app.py", "import keras"),
        ("api/app.py", "from torch import nn"),
    ],
)
def test_an_import_against_the_direction_is_found(path: str, text: str) -> None:
    assert imports_against_the_direction(tree_of((path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("keras_gradopt/linalg.py", "import jax.numpy as jnp"),
        ("keras_gradopt/gradient/yogi.py", "def f():\n    from tensorflow import function"),
        ("keras_gradopt/optimizer.py", "if keras.backend.backend() == 'torch': pass"),
        ("recommender/decision.py", "import jax"),
    ],
)
def test_a_framework_outside_the_backend_is_found(path: str, text: str) -> None:
    assert frameworks_outside_the_backend(tree_of((path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("keras_gradopt/linalg.py", "from keras.src import ops"),
        ("keras_gradopt/gradient/yogi.py", "def f(self):\n    self._track_variable(1)"),
        (
            "keras_gradopt/gradient/yogi.py",
            "class Yogi(Base):\n    def _track_variable(self): ...",
        ),
        ("recommender/probes.py", "def f(model):\n    return model._compile_metrics"),
    ],
)
def test_touching_what_keras_keeps_private_is_found(path: str, text: str) -> None:
    assert keras_private_access(tree_of((path, text)), keras_private_names())


def test_a_name_of_our_own_that_keras_has_too_is_no_breach() -> None:
    own = "class Run:\n    def f(self):\n        self._lock = 1\n        return self._lock"
    assert not keras_private_access(tree_of(("recommender/run.py", own)), frozenset({"_lock"}))


@pytest.mark.parametrize(
    "text",
    [
        "from keras_gradopt.gradient.yogi import Yogi",
        "from keras_gradopt.gradient import yogi",
        "from ..gradient import yogi",
        "from keras_gradopt import gradient",
        "from keras_gradopt import backend",
        "from keras_gradopt.backend import jax",
        "from keras_gradopt import Yogi",
        "import keras_gradopt as kg",
    ],
)
def test_families_that_mix_are_found(text: str) -> None:
    folders = [(f"keras_gradopt/{name}/__init__.py", "") for name in ("gradient", "backend")]
    closure = ("keras_gradopt/closure/sam.py", text)
    assert families_that_mix(tree_of(("keras_gradopt/__init__.py", ""), RULE, *folders, closure))


def test_a_family_may_use_itself_and_the_shared_modules() -> None:
    text = "from keras_gradopt.gradient.yogi import Yogi\nfrom keras_gradopt.tensors import Tensor"
    adam = ("keras_gradopt/gradient/yogi_w.py", text)
    assert not families_that_mix(tree_of(RULE, ("keras_gradopt/tensors.py", ""), adam))


@pytest.mark.parametrize(
    "text", ["NAME = 'yogi'", "x = {'Yogi': 1}", "f('keras_gradopt>Yogi')", "s = f'{x}' + 'yogi'"]
)
def test_an_optimizer_named_elsewhere_is_found(text: str) -> None:
    assert names_said_elsewhere(tree_of(RULE, ("recommender/candidates.py", text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        RULE,
        ("keras_gradopt/gradient/yogi.py", "class Yogi:\n    name = 'yogi'"),
        ("recommender/knowledge/build.py", "NAME = 'yogi'"),
        ("recommender/decision.py", "'''yogi'''\ndef f():\n    'yogi'"),
        ("recommender/decision.py", "text = 'Taking yogi would be too dear.'"),
    ],
)
def test_an_optimizer_named_where_it_may_be_is_no_breach(path: str, text: str) -> None:
    assert not names_said_elsewhere(tree_of(RULE, (path, text)))


def test_names_are_put_in_snake_case_as_people_say_them() -> None:
    names = ("AdaBelief", "LBFGS", "RMSprop", "NewtonCG", "ScheduleFreeAdamW")
    expected = ["ada_belief", "lbfgs", "rm_sprop", "newton_cg", "schedule_free_adam_w"]
    assert [snake_case(name) for name in names] == expected
