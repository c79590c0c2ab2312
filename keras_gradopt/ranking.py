"""Ranks of losses, and how far noise changes them."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def centred_ranks(losses: Tensor) -> Tensor:
    """Ranks of losses of shape (points,), from -1/2 (the best) to 1/2; equal losses share one."""
    below = ops.sum(ops.cast(losses[None, :] < losses[:, None], losses.dtype), axis=1)
    equal = ops.sum(ops.cast(ops.equal(losses[None, :], losses[:, None]), losses.dtype), axis=1)
    return (below + (equal - 1) / 2) / (losses.shape[0] - 1) - 0.5


def order(losses: Tensor) -> Tensor:
    """The rank of each loss, 0 for the smallest; of equal ones the first is the smaller."""
    return ops.argsort(ops.argsort(losses))


def rank_change(losses: Tensor, count: Tensor, theta: float = 0.2) -> Tensor:
    r"""How much more the ranks of twice evaluated losses change than they may: noise above 0.

    With all $2 \lambda$ losses ranked together, point $i$ has ranks $R_i$ and $R_i'$ and changes by
    $\Delta_i = |R_i - R_i'| - 1$; what it may change by is the $\theta / 2$ quantile of the changes
    to all ranks, from either of the two, or one rank.

    Args:
        losses: Shape (2, points).
        count: How many points there are, at least 2, a float scalar; those after them have losses
            of +inf.
        theta: $\theta$ in (0, 1]: the smaller, the sooner is a change called noise.

    Returns:
        The mean over the points of $\Delta_i$ less what is allowed, a scalar.

    References:
        Hansen, Niederberger, Guzzella, Koumoutsakos. A Method for Handling Uncertainty in
        Evolutionary Optimization with an Application to Feedback Control of Combustion. IEEE
        Transactions on Evolutionary Computation 2009, Algorithm 2; that one rank is always allowed
        is Hansen's code's.
    """
    most, count = losses.shape[1], ops.convert_to_tensor(count, losses.dtype)
    # Two equal losses that stand for missing points come last in either half.
    ranks = ops.cast(ops.reshape(order(ops.reshape(losses, (-1,))), (2, most)), losses.dtype)
    first, second = ranks[0], ranks[1]
    changed = ops.maximum(ops.abs(first - second) - 1.0, 0.0)
    above = ops.cast(first > second, losses.dtype)
    allowed = 0.5 * (
        _quantile(first + 1.0 - above, count, theta) + _quantile(second + above, count, theta)
    )
    allowed = ops.maximum(allowed, 1.0)
    there = ops.cast(ops.arange(most), losses.dtype) < count
    return ops.sum(ops.where(there, changed - allowed, 0.0)) / count


def _quantile(rank: Tensor, count: Tensor, theta: float) -> Tensor:
    """The theta/2 quantile of the distances from a rank to the ranks 1 to 2 count - 1."""
    many = 2.0 * count - 1.0
    # Sorted, the distances are 0, 1, 1, 2, 2, ... to the nearer end, then one by one.
    near = ops.maximum(ops.minimum(rank - 1.0, many - rank), 0.0)

    def distance(place: Tensor) -> Tensor:
        return ops.where(place <= 2.0 * near, ops.ceil(place / 2.0), place - near)

    place = ops.clip(0.5 * theta * many - 0.5, 0.0, many - 1.0)
    low = ops.floor(place)
    share = place - low
    return (1.0 - share) * distance(low) + share * distance(low + 1.0)
