"""The pages in docs/benchmarks/, from the raw figures that the scripts have left beside them.

    python -m benchmarks.pages

`make bench` measures first. One page per script; what was not measured has no section.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gradient_free, mending, second_order
from benchmarks.parts import advice_page, closures_page, goals, results, service_page
from benchmarks.parts.results import FLOOR
from benchmarks.parts.sets import SETS, in_words

Report = dict[str, Any]
Cell = dict[str, Any]
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
RESULTS = FOLDER / "results"
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "torch"}
SET_TITLES = {
    "resnet50": "the variables of a ResNet-50",
    "many_small": "many small variables",
    "transformer": "the variables of a small transformer",
    "matrices": "matrices",
}
MODE_TITLES = {
    "jit": "",
    "xla": "XLA around the step, ",
    "graph": "no XLA around the step, ",
    "eager": "",
}
GENERATED = "<!-- Written by `python -m benchmarks.pages`; edit that. -->"

STEP = """# One optimizer step

How long one step of an optimizer takes, without the model.
`make bench` makes this page; `python -m benchmarks.step` measures.
All sides of one row were measured in one process, on one thread and one core, in turn, round after
round; figures are medians over the rounds of CPU time, followed by the quartiles.
Ratios within 10 % of each other count as equal, since the machine may be shared.
The floor is one fused pass in C over weights, gradients and slots, which reads all and writes all
but the gradients; it leaves out that clipping has to read the gradients once more.
*ours* is `keras_gradopt`, *keras* is Keras' own optimizer of the same name, and *ordinary* is our
rule in an optimizer written the ordinary Keras way: a Keras variable per slot, and an `update_step`
that is called for each variable.
*torch foreach Adam by bytes* is the measure for rules that no framework fuses: its time, times the
bytes that the rule moves, over the bytes that Adam moves.
Not all peers do the same work: Muon of torch, pytorch-optimizer and heavyball iterates in bfloat16,
which processors without instructions for it compute slowly; pytorch-optimizer's LARS moves vectors
by plain momentum, and its Lamb does not correct the moments.
"""

FIT = """# The optimizer's share of `fit`

How much an optimizer adds to the steps of `model.fit`, beyond Keras' SGD without momentum.
`make bench` makes this page; `python -m benchmarks.fit` measures.
Whole short fits on the same synthetic data took turns in one process, on one thread and one core;
figures are medians over the rounds of CPU time, followed by the quartiles.
*ordinary* is our rule in an optimizer written the ordinary Keras way.
The last columns compare what ours adds with what the ordinary way adds, where that is more than
noise.
"""

ACCELERATOR = """# One optimizer step on an accelerator

As the page on one step, but on a device and by the wall clock: each side queues ten steps and then
waits for the device (one step where that takes more than 50 ms), in turn, round after round.
On JAX each step is waited for.
`python -m benchmarks.accelerator` measures where there is a device; `make bench` leaves it out.
The floor is a copy on the device that moves as many bytes as the rule has to.
On small models every side is far from it: starting kernels takes longer than running them.
There are no goals here.
"""

MEMORY = """# Memory of the state

How much memory an optimizer takes on the variables of a ResNet-50, with the rule's slots in float32
as 1.
`make bench` makes this page; `python -m benchmarks.memory` measures.
Each side ran in a fresh process, which built the optimizer and took five steps.
*state* are the bytes of the optimizer's variables; the process' growth holds those, what the engine
keeps, and what a compiler has left behind.
*ordinary* is our rule in an optimizer written the ordinary Keras way.
"""

SECOND_ORDER = """# Methods that look at the curvature

Loss against gradient evaluations, and against seconds, of methods that look at the curvature beside
a tuned Adam.
`python -m benchmarks.second_order` measures, with a file for the raw figures; `make bench` makes
this page of them.
Adam is the best of six rates, each constant and with a cosine decay to zero; the others have
default arguments or the few in the script, K-FAC on the autoencoder the best of twelve settings.
Each got as many gradient evaluations as Adam has steps; a loss value counts a third, a product with
the Hessian three, one with the Gauss-Newton matrix two.
Shares are of what Adam spent until its own final loss.
Seconds are CPU time of steps that took turns in one process, medians, on one thread and one core;
an epoch's own work is in them, which one step to an epoch makes large.
"""

PROBES = """# What probes cost

Many short trainings of one model, each with an optimizer and a rate of its own and one validation,
by the engine that `recommend` probes with and by the loops that people write.
`python -m benchmarks.probes` measures, with a file for the raw figures; `make bench` makes this
page of them.

Figures are CPU seconds on one thread and one core, compiling included; no cache of compiled
programs was used, and sides took turns in one process.
Ours is the sum over all candidates; a later process finds the compiled programs on JAX, which a row
of its own shows.
The loops build, compile and fit anew for each candidate, which costs the same each time: a few were
measured, and their median is taken as often as there are candidates.
Optuna's loop asks and tells a TPE study around it; KerasTuner's is its random search.
"""

GRADIENT_FREE = """# Searches without gradients

Methods that see losses only, beside the libraries that people take for them, and a hybrid beside
its parts.
`python -m benchmarks.gradient_free` measures, with a file for the raw figures; `make bench` makes
this page of them.
"""

CMA_ES = """Evaluations until a loss of 1e-9: the median of the runs that reached it, and how many
of 25 seeds did.
Everything is float64; each library draws its own numbers; without a population in the script all
take their defaults, which are the same.
A run has failed where it stops by its own rules, or after as many evaluations as the script allows.
The p-values are those of Fisher's exact test that both succeed equally often.
"""

HYBRIDS = """Final losses at equal evaluations, over 15 seeds; the search and its population are the
same alone and in the hybrid, which switches after 70 % of the evaluations.
Adam's rate is 0.05, and everything else has default arguments.
A loss counts a third of a gradient; in the hybrid Keras computes a gradient in each step of the
search too, which counts as well.
p is that of Wilcoxon's signed-rank test, over equal seeds, that the hybrid's losses are not
smaller.
"""

BAYES = """Simple regret: the distance of the best loss so far from the minimum, from the centre of
the box; 15 seeds.
scikit-optimize is `gp_minimize` with expected improvement, recorded in an environment of its own.
p is that of a two-sided Mann-Whitney test on the last regrets.
"""

THRESHOLDS = """Every method may evaluate 200 000 losses of a minibatch of 256; three seeds.
Settings are those of the script.
Adam trains what lies behind the thresholds, whose gradient is zero.
"""


MENDING = """# Illnesses and what mends them

How often each trigger of `recommender.illnesses` speaks on recorded tasks, and what its mend does.
`python -m benchmarks.mending` measures, with a file for the raw figures; `make bench` makes this
page of them.

On each task Adam at 0.001 and at 0.003 trained for at most 16 % of the full length and 1 200 steps;
then all illnesses were asked, and each mend was tested beside the unchanged task at 0.003: same
weights, same batches, judged by the task's own loss on the same validation blocks.
A change helps or harms where the loss differs by more than 1 %, and by twice the standard error
over the blocks or in the same direction on all of them.
Larger batches see as many examples in fewer steps: there no effect is the gain.
The rows were measured over several runs while thresholds were still being set, tasks measured anew
where a change concerned them; no optimizer was tested on tasks where its illness does not speak.
"""


def main() -> None:
    """Writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw figures")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pages go")
    given = parser.parse_args()
    reports = read(given.results)
    for name, text in pages(reports).items():
        (given.folder / name).write_text(text, "utf-8")
    for report in reports:
        if report["script"] == "second_order":
            draw_all(report, given.folder)
        if report["script"] == "gradient_free":
            draw_searches(report, given.folder)
        if report["script"] == "advice":
            draw_advice(report, given.folder)


def draw_all(report: Report, folder: Path) -> None:
    """The pictures of the page on curvature."""
    from benchmarks.parts.curves import draw

    for cell in report["cells"]:
        draw(cell, second_order.BASELINE, folder / f"second_order_{cell['problem']}.png")


def draw_searches(report: Report, folder: Path) -> None:
    """The pictures of the page on searches without gradients."""
    from benchmarks.parts import search_plots
    from benchmarks.parts.boxes import BOXES

    of = {part: [c for c in report["cells"] if c["part"] == part] for part in gradient_free.TABLES}
    if of["cma_es"]:
        file = folder / "gradient_free_cma_es.png"
        search_plots.draw_cma_es(of["cma_es"], gradient_free.LIBRARIES, file)
    if of["hybrid"]:
        search_plots.draw_hybrids(of["hybrid"], folder / "gradient_free_hybrid.png")
    if of["bayes"]:
        found = gradient_free.regrets(report["cells"])
        titled = {BOXES[name].title: curves for name, curves in found.items()}
        search_plots.draw_regrets(titled, folder / "gradient_free_bayes.png")


def draw_advice(report: Report, folder: Path) -> None:
    """The pictures of the page on choosing."""
    from benchmarks.parts import advice_plots

    advice_plots.draw_profiles(report["cells"], report["ratios"], folder / "advice_profile.png")
    advice_plots.draw_calibration(report["cells"], folder / "advice_calibration.png")


def read(folder: Path) -> list[Report]:
    """The reports in a folder, in the order of backends."""
    reports = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    return sorted(reports, key=lambda report: list(BACKENDS).index(report["backend"]))


def pages(reports: Sequence[Report]) -> dict[str, str]:
    """The pages by file name."""
    makers: dict[str, tuple[str, Callable[[Report], Iterable[str]]]] = {
        "step": (STEP, step_sections),
        "accelerator": (ACCELERATOR, accelerator_sections),
        "fit": (FIT, fit_sections),
        "memory": (MEMORY, memory_sections),
        "probes": (PROBES, probes_sections),
        "second_order": (SECOND_ORDER, second_order_sections),
        "gradient_free": (GRADIENT_FREE, gradient_free_sections),
        "advice": (advice_page.HEAD, advice_sections),
        "mending": (MENDING, mending_sections),
        "closures": (closures_page.HEAD, closures_sections),
        "service": (service_page.HEAD, service_sections),
    }
    found = {}
    for script, (head, sections) in makers.items():
        own = [report for report in reports if report["script"] == script]
        if own:
            blocks = [GENERATED, one_line_per_sentence(head)]
            for report in own:
                blocks += [f"## {BACKENDS[report['backend']]}", machine(report["machine"])]
                blocks += sections(report)
            found[f"{script}.md"] = "\n\n".join(block.strip() for block in blocks) + "\n"
    return found


def one_line_per_sentence(text: str) -> str:
    """The paragraphs of a text with a line for each sentence."""
    paragraphs = (block.replace("\n", " ") for block in text.strip().split("\n\n"))
    return "\n\n".join(paragraph.replace(". ", ".\n") for paragraph in paragraphs)


def machine(found: dict[str, str]) -> str:
    """What figures hold for, as one sentence."""
    names = list(found)[list(found).index("keras") :]
    versions = [f"{name} {found[name]}" for name in names if name not in ("device", "used")]
    used = found.get("used", "of which one was used")
    cores = f"{found['cores']} cores {used}, {found['memory']} of memory"
    return (
        f"{found.get('device') or found['processor'] + ', ' + cores}; "
        f"{found['system']}; {', '.join(versions)}; {found['date']}."
    )


# ---------------------------------------------------------------------- one step


def step_sections(report: Report) -> Iterable[str]:
    """Per set and mode: multiples of the floor, and goals; at the end the first calls."""
    measured = [cell for cell in report["cells"] if cell["seconds"][FLOOR]]
    for mode in dict.fromkeys(cell["mode"] for cell in measured):
        for name in dict.fromkeys(cell["set"] for cell in measured):
            cells = [c for c in measured if (c["set"], c["mode"]) == (name, mode)]
            if cells:
                title = f"{MODE_TITLES[mode]}{SET_TITLES[name]}: {in_words(SETS[name])}"
                yield f"### {title[0].upper()}{title[1:]}"
                yield "Multiples of the floor:"
                yield multiples(cells)
                yield "Ours as a multiple of another side:"
                yield ratios(cells)
    if traced := [cell for cell in report["cells"] if cell["first_call"]]:
        yield "### First call"
        yield "CPU seconds of the first step, which traces and compiles:"
        yield first_calls(traced)


def multiples(cells: Sequence[Cell]) -> str:
    """A row per rule, a column per side."""
    sides = [s for s in dict.fromkeys(s for c in cells for s in c["seconds"]) if s != FLOOR]
    rows = []
    for cell in cells:
        found = [
            f"{results.over(cell, side, FLOOR)[1]:.2f}" if side in cell["seconds"] else ""
            for side in sides
        ]
        kind = "" if cell.get("floor_is_c", True) else " (NumPy copy)"
        rows.append([cell["title"], *found, f"{results.bandwidth(cell):.1f} GB/s{kind}"])
    return table(["rule", *sides, "floor"], rows)


def ratios(cells: Sequence[Cell]) -> str:
    """A row per rule and other side, with its goal."""
    rows = []
    for cell in cells:
        ours = [side for side in cell["seconds"] if side.startswith("ours")]
        for side in ours:
            for other in cell["seconds"]:
                bound = goals.goal(cell, side, other)
                if other in ours or (other == FLOOR and bound is None):
                    continue
                ratio = results.over(cell, side, other)
                name = other if side == "ours" else f"{other} (compiled)"
                rows.append([cell["title"], name, in_digits(ratio), *judged(ratio[1], bound)])
    return table(["rule", "other side", "ours / other", "goal", ""], rows)


def accelerator_sections(report: Report) -> Iterable[str]:
    """Per set: multiples of the floor, and of other sides."""
    for name in dict.fromkeys(cell["set"] for cell in report["cells"]):
        cells = [cell for cell in report["cells"] if cell["set"] == name]
        title = f"{SET_TITLES[name]}: {in_words(SETS[name])}"
        yield f"### {title[0].upper()}{title[1:]}"
        yield "Multiples of the floor:"
        yield multiples(cells)
        yield "Ours as a multiple of another side:"
        rows = [
            [cell["title"], other, in_digits(results.over(cell, "ours", other))]
            for cell in cells
            for other in cell["seconds"]
            if other not in ("ours", FLOOR)
        ]
        yield table(["rule", "other side", "ours / other"], rows)


def first_calls(cells: Sequence[Cell]) -> str:
    """A row per cell, seconds of each side, and the ratio to Keras' own."""
    sides = list(dict.fromkeys(side for cell in cells for side in cell["first_call"]))
    rows = []
    for cell in cells:
        seconds = {side: results.first_call(cell, side) for side in cell["first_call"]}
        shown = [f"{seconds[side]:.1f}" if side in seconds else "" for side in sides]
        verdicts = ["", "", ""]
        if "keras" in seconds:
            ratio = seconds["ours"] / seconds["keras"]
            bound = goals.goal(cell, "ours", "keras", first_call=True)
            verdicts = [f"{ratio:.2f}", *judged(ratio, bound)]
        rows.append([cell["set"], cell["mode"], cell["title"], *shown, *verdicts])
        if "ours" in seconds and (plain := without_clipping(cell, cells)):
            ratio = seconds["ours"] / results.first_call(plain, "ours")
            words = f"{cell['title']} / {plain['title']}, ours"
            empty = [""] * len(sides)
            verdicts = [f"{ratio:.2f}", *judged(ratio, goals.CLIPPING)]
            rows.append([cell["set"], cell["mode"], words, *empty, *verdicts])
    return table(["set", "mode", "rule", *sides, "ours / keras", "goal", ""], rows)


def without_clipping(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell of Adam beside that of clipped AdamW."""
    if cell["rule"] != "adamw_clipped":
        return None
    place = ("adam", cell["set"], cell["mode"])
    return next((c for c in cells if (c["rule"], c["set"], c["mode"]) == place), None)


# ---------------------------------------------------------------------- fit, memory


def fit_sections(report: Report) -> Iterable[str]:
    """Per model what each optimizer adds."""
    bound = goals.FIT.get(report["backend"])
    for cell in report["cells"]:
        yield f"### {cell['title']}: {cell['tensors']} tensors, {cell['parameters'] / 1e6:.2f} M"
        rows = []
        for side in cell["seconds"]:
            if side == results.PLAIN:
                continue
            rule, _, kind = side.partition(", ")
            ratio = results.added_ratio(cell, rule) if kind == "ours" else None
            verdicts = ["", "", ""] if ratio is None else [f"{ratio:.2f}", *judged(ratio, bound)]
            rows.append([rule, kind, in_digits(results.added(cell, side)), *verdicts])
        yield table(["rule", "side", "added, in steps of SGD", "ours / ordinary", "goal", ""], rows)


def probes_sections(report: Report) -> Iterable[str]:
    """Per model what all candidates cost on each side."""
    for cell in report["cells"]:
        yield (
            f"### {cell['title']}: {cell['parameters']} parameters, "
            f"{cell['candidates']} candidates of {cell['steps']} steps"
        )
        rows = []
        for side in cell["seconds"]:
            naive = side == "build + compile + fit"
            bound = goals.PROBES[report["backend"]][cell["model"]] if naive else None
            verdicts = ["", ""]
            if bound is not None:
                verdicts = [f"≤ {bound:.2g}", goals.verdict(results.probe_ratio(cell, side), bound)]
            rows.append([side, *results.probe_figures(cell, side), *verdicts])
        yield table(["side", "CPU seconds", "ours / other", "times faster", "goal", ""], rows)


def memory_sections(report: Report) -> Iterable[str]:
    """All sides."""
    rows = []
    for cell in report["cells"]:
        state, grown, peak = (cell[name] / cell["slots"] for name in ("state", "grown", "peak"))
        # The count of steps and the learning rate are a few bytes more.
        verdicts = judged(round(state, 3), goals.STATE if cell["side"] == "ours" else None)
        figures = [f"{value:.2f}" for value in (state, grown, peak)]
        rows.append([cell["title"], cell["side"], *figures, *verdicts])
    yield table(
        ["rule", "side", "state", "process grows by", "at its highest", "goal for the state", ""],
        rows,
    )


# ---------------------------------------------------------------------- Markdown


def second_order_sections(report: Report) -> Iterable[str]:
    """A table and a picture for each problem."""
    for cell in report["cells"]:
        yield f"### {cell['title']}"
        yield table(second_order.HEADINGS, second_order.rows(cell))
        yield f"![Loss against evaluations and seconds](second_order_{cell['problem']}.png)"


def gradient_free_sections(report: Report) -> Iterable[str]:
    """A table for each kind of comparison that was measured."""
    parts = {
        "cma_es": ("CMA-ES", CMA_ES),
        "hybrid": ("A search first, gradients after", HYBRIDS),
        "bayes": ("Bayesian optimisation", BAYES),
        "thresholds": ("A network of hard thresholds, digits", THRESHOLDS),
    }
    for part, (title, text) in parts.items():
        headings, rows = gradient_free.TABLES[part](report["cells"])
        if rows:
            yield f"### {title}"
            yield one_line_per_sentence(text)
            yield table(headings, rows)
            if part != "thresholds":
                yield f"![The same as a picture](gradient_free_{part}.png)"


def advice_sections(report: Report) -> Iterable[str]:
    """Rules, odds, and what the truth table says by itself."""
    for block in advice_page.sections(report, table):
        # Tables and headings stand as they are.
        yield block if block.startswith(("|", "#", "!")) else one_line_per_sentence(block)


def mending_sections(report: Report) -> Iterable[str]:
    """How often triggers speak, and what changes do."""
    yield "### What changes do"
    yield table(mending.EFFECT_HEADINGS, mending.effects(report["cells"]))
    yield "### How often triggers speak"
    yield table(mending.TRIGGER_HEADINGS, mending.triggers(report["cells"]))


def closures_sections(report: Report) -> Iterable[str]:
    """Trials task by task, and the contests."""
    for block in closures_page.sections(report, table):
        yield block if block.startswith(("|", "#")) else one_line_per_sentence(block)


def service_sections(report: Report) -> Iterable[str]:
    """Latencies beside the empty route, and the rest."""
    return service_page.sections(report, table)


def judged(ratio: float, bound: float | None) -> list[str]:
    """Goal and verdict, both empty without a goal."""
    return ["", ""] if bound is None else [f"≤ {bound:g}", goals.verdict(ratio, bound)]


def in_digits(ratio: results.Ratio) -> str:
    """A median and its quartiles."""
    low, middle, high = ratio
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main()
