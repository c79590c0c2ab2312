"""How large the columns of a table are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sizes(table: NDArray[Any]) -> NDArray[np.float64]:
    """Root mean square of each column's entries other than 0, columns of zeros left out.

    Zeros say that something is absent: how often it is there is no matter of scale.
    """
    values = np.asarray(table, np.float64)
    present = (values != 0).sum(0)
    squares = (values * values).sum(0)
    found: NDArray[np.float64] = np.sqrt(squares[present > 0] / present[present > 0])
    return found


def scale_spread(table: NDArray[Any]) -> float:
    """Base-10 logarithm of the 90 % over the 10 % quantile of the columns' sizes.

    Quantiles, since a nearly constant column or two are no reason to scale all others.
    """
    found = sizes(table)
    if not len(found):
        return 0.0
    low, high = np.quantile(found, [0.1, 0.9])
    return float(np.log10(high / low))
