"""recommend(...): the order of the stages, and the only module that knows it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import keras

from recommender.budget import Budget
from recommender.candidates import Candidate, hurdle, mentioned, propose
from recommender.contest import Contest, requested
from recommender.decision import Decision, by_prior, decide
from recommender.description import Description, describe
from recommender.diagnostics import (
    Diagnostics,
    blocking,
    diagnose,
    follow_up,
    inspected,
)
from recommender.errors import BudgetExhausted, ProbeFailed, RequestError
from recommender.forecast import forecast
from recommender.knowledge import prior
from recommender.population import Opens, open_population
from recommender.probes import LEAST_STEPS_TO_RACE, ProbeResult, race, width
from recommender.problem import Problem, build
from recommender.progress import Progress, as_progress
from recommender.report import Advice
from recommender.request import Request, checked
from recommender.trunk import Trunk

# Steps for which the unprobed answer is watched.
STABILITY_STEPS = 20


def recommend(
    model: Any,
    x: Any,
    y: Any = None,
    validation_data: Any = None,
    *,
    loss: Any = None,
    loss_weights: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    epochs: int = 20,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    tier: str = "quick",
    max_seconds: float | None = None,
    objective: str = "val_loss",
    backend: str | None = None,
    include: Sequence[str] = (),
    seed: int = 0,
    progress: bool | Callable[[str], None] | Progress = True,
    journal: str | os.PathLike[str] | None = None,
) -> Advice:
    """Which optimizer, rate and schedule to train a model with, by short probe trainings.

    The model is copied; nothing of the caller's changes. All candidates start from the model's
    present weights and see the same batches. The same request, seed and versions give the same
    answer, unless `max_seconds` cut it short.

    Args:
        model: A Keras model, its config (dict or JSON text), or a family summary such as
            `{"family": "mlp", "units": [64, 64]}`.
        x: Inputs, as one of:
            arrays (NumPy, tensors, data frames), or a list or dict of them;
            a `keras.utils.PyDataset`, a `tf.data.Dataset`, a torch `DataLoader`, a generator, a
            function that returns one, or anything else to iterate, which yields `(x, y)`,
            `(x, y, sample_weight)` or `x` alone, in batches or one by one;
            a summary of data that stays at home, such as
            `{"shape": [64], "task": "classification", "classes": 10, "samples": 5000}`; probes
            then run on data drawn from it, and the evidence is "synthetic".
            What has to be iterated is read once into memory, up to 100 000 examples or 1 GiB, and
            for at most a quarter of `max_seconds`; a larger source is read in part (a `PyDataset`
            at random, any other from its beginning), and the notes say so. The length of a full
            training counts its own batches. A generator is used up. Sources that shuffle without a
            seed give other examples each time, and so perhaps another answer.
        y: Targets, one row per input, or a list or dict of them for several outputs. None where x
            brings them, with a summary, and for models with a loss of their own (`add_loss`,
            `compute_loss`); `y=x` for autoencoders.
        validation_data: `(x_val, y_val)`, `(x_val, y_val, sample_weight_val)`, or anything to
            iterate as for x, with an end; None holds a fifth out.
        loss: What `model.compile` takes: one loss for all outputs, a list, or a dict by the
            outputs' names. None is the compiled model's loss, else the model's own, else the usual
            one for the targets: cross-entropy for class labels (logits or probabilities, as the
            outputs are), the mean squared error for numbers.
        loss_weights: What `model.compile` takes: a factor per output, as a list or dict; None is
            the compiled model's, else 1.
        sample_weight: What `model.fit` takes: the weight of each example, or of each step of a
            sequence; or a list or dict of such by output.
        class_weight: What `model.fit` takes: a dict from class to weight, for training only.
        epochs: Length of one full training, at least 1.
        batch_size: Examples per step, at least 1. None is the batch size of x where it comes in
            batches, which a number may not contradict, else 32.
        steps_per_epoch: Steps of one epoch, as in `model.fit`; needed where x has no end, of which
            one epoch is read. None counts the data.
        tier: What may be spent, in full trainings: "instant" nothing, "quick" 0.1, "standard" 0.5,
            "thorough" 2.
        max_seconds: Wall-clock limit, above 0; None is no limit.
        objective: What to minimise; "val_loss", the best one within the training.
        backend: The Keras backend to probe on, in a process of its own unless it is the running
            one; None is JAX where it is installed, since probes are fastest there. Where model or
            loss do not give the same losses there, probes run here and the advice says so.
        include: Further optimizers by name to try; those that evaluate the loss again are not
            raced but tried beside the race, in tiers that have one.
        seed: Seed of splits, batch order and drawn data.
        progress: Whether to tell on standard error what happens, a function to tell, or a
            `recommender.progress.Progress`, which also hears every probe's losses.
        journal: A folder that keeps what was trained. Asked again with the same folder and
            otherwise the same arguments (`max_seconds` may differ), an interrupted request goes on
            where it was and gives the same answer. None keeps nothing.

    Returns:
        The advice.

    Raises:
        RequestError: Something about the request is wrong; the message says what to do.

    Example:
        >>> advice = recommend(model, x, y, loss="mse", epochs=100)
        >>> model.compile(optimizer=advice.optimizer(), loss="mse")
        >>> advice = recommend(model, train_dataset, validation_data=val_dataset, epochs=10)
    """
    request = checked(
        Request(
            model, x, y, validation_data, loss, epochs, batch_size, tier, max_seconds, objective,
            backend, tuple(include), seed, loss_weights, sample_weight, class_weight,
            steps_per_epoch,
        )
    )  # fmt: skip
    from recommender.engine import answered  # which runs the stages below, here or elsewhere

    return answered(request, as_progress(progress), journal)


def advised(
    request: Request,
    hears: Progress,
    problem: Problem | None = None,
    opens: Opens = open_population,
) -> Advice:
    """The stages in their order, in this process and on its backend.

    Args:
        request: A request that passed `request.checked`.
        hears: Hears how the advice comes about.
        problem: What was built of the request; None builds it.
        opens: Opens the probe engine, as `open_population` does.

    Returns:
        The advice.
    """
    if problem is None:
        problem = read(request, hears)
    budget = Budget(request.tier, problem.full_steps, request.max_seconds, enough=hears.enough)
    description = describe(problem)
    outlook = prior.shipped().about(description.to_dict())
    candidates = propose(outlook, request.include, width(request.tier, problem.full_steps))
    # Tried beside the race, where there is one; else only named.
    asked = requested(request.include)
    aside = [*asked, *mentioned(description.to_dict(), request.tier)]
    notes = list(problem.notes)
    diagnostics: Diagnostics | None = None
    results: list[ProbeResult] = []
    if request.tier == "instant":
        decision = by_prior(candidates, None)
        diagnostics = inspected(problem, description)
    elif not races(request, problem):
        notes.append(
            f"A full training has {problem.full_steps} steps, and a tenth of less than "
            f"{LEAST_STEPS_TO_RACE} is too short for a race: this is the instant answer after a "
            "stability check. Tier 'standard' would race."
        )
        decision, diagnostics, results = _checked_only(
            problem, description, candidates, budget, hears, opens
        )
    else:
        decision, diagnostics, results, aside = _raced(
            problem, description, candidates, asked, budget, hears, opens
        )
    if blocking(diagnostics.findings):
        notes.append("Mend what is listed under warnings first: it outweighs any optimizer.")
    hears.said(f"decided for {decision.candidate.label}")
    probed = any(r.rungs or r.losses for r in results)
    evidence = "measured" if any(r.rungs for r in results) else "prior"
    if probed and problem.source == "synthetic":
        evidence = "synthetic"
    return Advice(
        decision=decision,
        candidates=(*candidates, *aside),
        results=tuple(results),
        description=description,
        # Without the measurements themselves: they hold the engine and its data.
        diagnostics=dataclasses.replace(diagnostics, measured=None),
        expected=forecast(outlook, decision, request.tier, synthetic=evidence == "synthetic"),
        nearest=tuple(outlook.nearest()),
        cost=budget.cost(),
        full_steps=problem.full_steps,
        evidence=evidence,
        notes=tuple(notes),
        versions=versions(),
        tier=request.tier,
        seed=request.seed,
    )


def read(request: Request, hears: Progress) -> Problem:
    """Model and data, ready to be probed."""
    hears.said("reading model and data")
    return build(request)


def races(request: Request, problem: Problem) -> bool:
    """Whether candidates are compared at all: some answers need no training, or too little."""
    short = problem.full_steps < LEAST_STEPS_TO_RACE and request.tier == "quick"
    return request.tier != "instant" and not short


def _checked_only(
    problem: Problem,
    description: Description,
    candidates: Sequence[Candidate],
    budget: Budget,
    hears: Progress,
    opens: Opens,
) -> tuple[Decision, Diagnostics, list[ProbeResult]]:
    """The instant answer, after some steps that show whether its rate is stable here."""
    diagnostics = inspected(problem, description)
    # The default comes last: it is what is left when nobody else holds.
    order = sorted(candidates, key=lambda c: (c.role == "default", c.prior))
    settings = list(dict.fromkeys(c.setting for c in order))
    hears.planned(settings)
    population = opens(problem, settings, budget, hears)
    results = []
    reasons = []
    for setting in settings:
        trunk = population.trunk(setting)
        hears.said(f"watching {setting.label} for {STABILITY_STEPS} steps")
        stopped, steady = "watched for stability only", True
        try:
            with contextlib.suppress(BudgetExhausted):  # fewer steps watched is an answer too
                trunk.advance(min(STABILITY_STEPS, int(budget.remaining)), "stability")
            steady = not trunk.losses or _steady(trunk)
        except ProbeFailed as error:
            stopped, steady = str(error), False
        hears.stopped(setting, stopped)
        losses = tuple(trunk.losses)
        results.append(ProbeResult(setting, (), losses, trunk.diverged_at, stopped))
        if steady:
            reasons.append(
                f"{len(losses)} steps at {setting.learning_rate:g} were stable; the training is "
                "too short to compare candidates."
            )
            if not blocking(diagnostics.findings):
                diagnostics = follow_up(
                    diagnostics, description, population, (), setting, hears.said
                )
            break
        reasons.append(f"{setting.label} was not stable for {len(losses)} steps.")
    held = [c for c in candidates if c.setting == setting]
    return by_prior(held, "too_few_steps", *reversed(reasons)), diagnostics, results


def _raced(
    problem: Problem,
    description: Description,
    candidates: Sequence[Candidate],
    asked: Sequence[Candidate],
    budget: Budget,
    hears: Progress,
    opens: Opens,
) -> tuple[Decision, Diagnostics, list[ProbeResult], list[Candidate]]:
    """The race, then trials of what cannot be raced: those last."""
    settings = list(dict.fromkeys(c.setting for c in candidates))
    hears.planned(settings)
    population = opens(problem, settings, budget, hears)
    hears.said("checking data, loss and rates")
    default = hurdle().setting
    try:
        diagnostics = diagnose(problem, description, population, default, settings)
    except ProbeFailed as error:
        raise RequestError(
            f"the model cannot be trained with {default.label}: a step {error}. See whether "
            "model.fit runs with it on these data and this backend.",
            code="untrainable_model",
        ) from error
    for finding in diagnostics.findings:
        hears.said(f"{'first mend' if finding.blocking else 'note'}: {finding.text}")
    contest = Contest(population, description, diagnostics.findings, asked)
    results: list[ProbeResult] = []
    if first := blocking(diagnostics.findings):
        # Whatever a race showed would be about the fault, not about the optimizers.
        reason = f"Nothing was raced: {first[0].text}"
        decision = by_prior(candidates, "blocking_finding", reason)
    else:
        hears.said(f"racing {len(settings)} candidates")
        priors = {s: min(c.prior for c in candidates if c.setting == s) for s in settings}
        wanted = {c.setting for c in candidates if c.role == "requested"}
        initial = diagnostics.initial_loss
        with budget.held(min(contest.reserve, budget.remaining)):
            results = race(population, priors, default, initial, budget, wanted)
            decision = decide(candidates, results, initial, problem.full_steps)
            before = len(diagnostics.findings)
            diagnostics = follow_up(
                diagnostics,
                description,
                population,
                results,
                decision.candidate.setting,
                hears.said,
            )
        for finding in diagnostics.findings[before:]:
            hears.said(f"note: {finding.text}")
    settled = contest.settle(decision, results)
    return settled.decision, diagnostics, [*results, *settled.results], [*settled.candidates]


def _steady(trunk: Trunk) -> bool:
    return trunk.diverged_at is None and trunk.losses[-1] < 2 * trunk.losses[0] + 1


def versions() -> dict[str, str]:
    """What the answer depends on."""
    found = {"keras": keras.__version__, "backend": keras.config.backend()}
    try:
        found["keras_gradopt"] = metadata.version("keras-gradopt")
    except metadata.PackageNotFoundError:
        from keras_gradopt import __version__

        found["keras_gradopt"] = __version__
    return found
