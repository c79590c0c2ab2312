"""gradopt: advice, the demo and the catalogue on the command line."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from recommender.errors import RecommenderError, RequestError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Which optimizer, learning rate and schedule to train a Keras model with.",
)
INTERRUPTED = 130
# Probes are fastest on the first.
BACKENDS = ("jax", "tensorflow", "torch")
BAD_INPUT = 2


@app.command()
def advise(
    model: Annotated[Path, typer.Argument(help="The model, a .keras file.")],
    data: Annotated[Path, typer.Argument(help="A .npz with x and y (and x_val, y_val).")],
    loss: Annotated[str | None, typer.Option(help="As in compile; default: the model's.")] = None,
    epochs: Annotated[int, typer.Option(help="Length of one full training.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 32,
    tier: Annotated[str, typer.Option(help="instant, quick, standard or thorough.")] = "quick",
    max_seconds: Annotated[float | None, typer.Option(help="Wall-clock limit.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Further optimizers to try.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write a page with the evidence.")] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Folder to go on from after an interruption.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure which optimizer and schedule to train MODEL on DATA with."""
    from recommender import recommend

    arrays = _load_data(data)
    loaded = _load_model(model)
    validation = (arrays["x_val"], arrays["y_val"]) if "x_val" in arrays else None
    advice = recommend(
        loaded, arrays["x"], arrays["y"], validation, loss=loss, epochs=epochs,
        batch_size=batch_size, tier=tier, max_seconds=max_seconds, include=include or (), seed=seed,
        journal=journal,
    )  # fmt: skip
    console = Console()
    if as_json:
        console.print_json(json.dumps(advice.to_dict()))
    else:
        advice.show(console)
    if report is not None:
        advice.save_report(report)
        console.print(f"Evidence: {report}")


@app.command()
def demo(
    task: Annotated[str | None, typer.Option(help="One of the demo's tasks; see --tasks.")] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="List the tasks and stop.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Full trainings of each side.")] = 3,
    tier: Annotated[str, typer.Option(help="How much the advice may cost.")] = "quick",
    report: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("report.html"),
) -> None:
    """Ask for advice on real data, then train with and without it, side by side."""
    from recommender import demo_tasks
    from recommender.demo import run

    console = Console()
    if tasks:
        for one in demo_tasks.TASKS.values():
            console.print(f"[bold]{one.name}[/bold]: {one.summary}")
        return
    run(task or demo_tasks.DEFAULT_TASK, seeds, report, console, tier)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, for its equations.")] = None,
) -> None:
    """List the optimizers, or show one."""
    import keras_gradopt
    from keras_gradopt.catalogue import entry
    from keras_gradopt.registry import find

    console = Console()
    if name is None:
        table = Table("name", "year", "needs", "state", "what it is")
        for one in keras_gradopt.methods():
            table.add_row(
                one.name, str(one.year), one.needs, f"{one.state_multiple:g}x", one.summary
            )
        console.print(table)
        return
    one = entry(find(name))
    console.print(f"[bold]{one.class_name}[/bold] ({one.year}): {one.summary}")
    console.print(one.use)
    for equation in one.equations:
        console.print(f"  {equation}", markup=False, highlight=False)
    table = Table("argument", "default", "range", "meaning")
    for argument in one.hyperparameters:
        default = "required" if argument.default is None else str(argument.default)
        table.add_row(argument.name, default, argument.range or "", argument.description)
    console.print(table)
    console.print(
        f"State: {one.state_multiple:g} times the parameters. Cost of a step: "
        f"{one.gradient_evaluations_per_step:g} gradients. Needs: {one.needs}."
    )
    console.print(one.references, markup=False, highlight=False)


def _load_data(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RequestError(f"there is no file {path}.", code="file_missing")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise RequestError(
            f"{path} cannot be read as .npz: {error}. Write it with numpy.savez(path, x=x, y=y).",
            code="file_unreadable",
        ) from error
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing or ("x_val" in arrays) != ("y_val" in arrays):
        raise RequestError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; x and y are needed, and x_val with "
            "y_val or neither.",
            code="file_incomplete",
        )
    return arrays


def _load_model(path: Path) -> Any:
    import keras

    import keras_gradopt  # noqa: F401 - its classes may be in the file

    if not path.is_file():
        raise RequestError(f"there is no file {path}.", code="file_missing")
    try:
        with warnings.catch_warnings():
            # Keras warns of a saved optimizer that was never used; probes need its loss only.
            warnings.simplefilter("ignore")
            return keras.models.load_model(path)
    except Exception as error:  # a model file may be broken in any way
        first = next((line for line in str(error).splitlines() if line.strip()), str(error))
        raise RequestError(
            f"{path} cannot be loaded as a Keras model: {first}", code="file_unreadable"
        ) from error


def choose_backend(wanted: str | None, installed: Sequence[str]) -> str:
    """The Keras backend to run on.

    Args:
        wanted: What the environment or Keras' own configuration names; None is nothing.
        installed: The backends that are there, the preferred one first.

    Returns:
        What is wanted, if anything is; else the first that is installed.

    Raises:
        RequestError: None is installed.
    """
    if wanted is not None:
        return wanted
    if not installed:
        raise RequestError(
            "no Keras backend is installed. Install one with pip: jax, tensorflow or torch.",
            code="no_backend",
        )
    return installed[0]


def _settle_backend() -> None:
    """Keras takes TensorFlow where nobody says otherwise, installed or not."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted is None:
        home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            named = json.loads((home / "keras.json").read_text(encoding="utf-8")).get("backend")
            wanted = named if named in installed else None
    os.environ["KERAS_BACKEND"] = choose_backend(wanted, installed)


def _add_commands() -> None:
    """Commands of packages that build on this one, which it cannot import by name."""
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    for point in importlib.metadata.entry_points(group="gradopt.commands"):
        if point.name in known:
            continue
        loaded = point.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=point.name)
        else:
            app.command(point.name)(loaded)


def main() -> None:
    """Run the command line; wrong input ends with exit code 2 and one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    errors = Console(stderr=True)
    try:
        _settle_backend()
        _add_commands()
        # Typer turns an interrupt into its exit code, and returns it.
        code = app(standalone_mode=False)
    except (RecommenderError, ValueError) as error:
        errors.print(f"gradopt: {error}", markup=False, highlight=False, soft_wrap=True)
        code = BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        # Click's own usage errors know how to show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = BAD_INPUT
    if code == INTERRUPTED:
        errors.print("gradopt: interrupted; nothing of yours was changed.", highlight=False)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
