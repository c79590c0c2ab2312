"""The weights and rates of covariance matrix adaptation, by dimension and population."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Recombination:
    r"""What a generation of `population` points in `size` dimensions is weighed with.

    Attributes:
        weights: Per rank, the best first, shape (most,): positive ones sum to 1, those of the worse
            half are negative or 0, and 0 beyond the population.
        mu_eff: How many points count, $(\sum w_i)^2 / \sum w_i^2$ of the positive weights.
        c_sigma: Rate of the step size's path.
        d_sigma: Damping of the step size.
        c_c: Rate of the covariance's path.
        c_1: Rate of the rank-one update.
        c_mu: Rate of the rank-mu update.
    """

    weights: Tensor
    mu_eff: Tensor
    c_sigma: Tensor
    d_sigma: Tensor
    c_c: Tensor
    c_1: Tensor
    c_mu: Tensor


def full(size: int, population: Tensor, most: int) -> Recombination:
    """For a full covariance matrix.

    Args:
        size: Dimensions.
        population: Points, at least 2: a scalar float tensor.
        most: Length of `weights`, at least `population`.

    References:
        Hansen. The CMA Evolution Strategy: A Tutorial. 2016, table 1, equations (49) to (58), with
        negative weights.
    """
    ranks = ops.cast(ops.arange(1, most + 1), population.dtype)
    there = ops.cast(ranks <= population, ranks.dtype)
    raw = (ops.log((population + 1) / 2) - ops.log(ranks)) * there
    good = ops.maximum(raw, 0.0)
    bad = ops.maximum(-raw, 0.0)
    # The tutorial's sums over the better half; the middle one of an odd population weighs 0.
    mu_eff = ops.sum(good) ** 2 / ops.sum(good * good)
    mu_eff_bad = ops.sum(bad) ** 2 / ops.maximum(ops.sum(bad * bad), 1e-30)
    c_1 = 2.0 / ((size + 1.3) ** 2 + mu_eff)
    c_mu = ops.minimum(
        1.0 - c_1 - 1e-8, 2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((size + 2.0) ** 2 + mu_eff)
    )
    # A population of two or three has one parent and no rank-mu update.
    per_mu = 1.0 / ops.maximum(c_mu, 1e-12)
    strength = ops.minimum(
        1.0 + c_1 * per_mu,
        ops.minimum(
            1.0 + 2.0 * mu_eff_bad / (mu_eff + 2.0), (1.0 - c_1 - c_mu) * per_mu / float(size)
        ),
    )
    weights = good / ops.sum(good) - strength * bad / ops.maximum(ops.sum(bad), 1e-30)
    return Recombination(
        weights=weights,
        mu_eff=mu_eff,
        **_steps(mu_eff, size, 5.0),
        c_c=(4.0 + mu_eff / size) / (size + 4.0 + 2.0 * mu_eff / size),
        c_1=c_1,
        c_mu=c_mu,
    )


def separable(size: int, population: Tensor, most: int) -> Recombination:
    """For a diagonal covariance matrix, which may learn faster.

    Args:
        size: Dimensions.
        population: Points, at least 2: a scalar float tensor.
        most: Length of `weights`, at least `population`.

    References:
        Ros, Hansen. A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity.
        PPSN 2008, table 1 and section 3.
    """
    ranks = ops.cast(ops.arange(1, most + 1), population.dtype)
    parents = ops.floor(population / 2.0)
    raw = ops.maximum(ops.log(parents + 1.0) - ops.log(ranks), 0.0)
    weights = raw / ops.sum(raw)
    mu_eff = 1.0 / ops.sum(weights * weights)
    c_mu = 2.0 / mu_eff / (size + 2.0**0.5) ** 2 + (1.0 - 1.0 / mu_eff) * ops.minimum(
        1.0, (2.0 * mu_eff - 1.0) / ((size + 2.0) ** 2 + mu_eff)
    )
    c_1 = 2.0 / ((size + 1.3) ** 2 + mu_eff)
    return Recombination(
        weights=weights,
        mu_eff=mu_eff,
        **_steps(mu_eff, size, 3.0),
        c_c=ops.full_like(mu_eff, 4.0 / (size + 4.0)),
        c_1=c_1,
        # A third of the dimensions' sum: never more than what is left.
        c_mu=ops.minimum(1.0 - c_1, (size + 2.0) / 3.0 * c_mu),
    )


def _steps(mu_eff: Tensor, size: int, offset: float) -> dict[str, Tensor]:
    c_sigma = (mu_eff + 2.0) / (size + mu_eff + offset)
    grown = ops.sqrt(ops.maximum((mu_eff - 1.0) / (size + 1.0), 0.0)) - 1.0
    return {"c_sigma": c_sigma, "d_sigma": 1.0 + 2.0 * ops.maximum(grown, 0.0) + c_sigma}
