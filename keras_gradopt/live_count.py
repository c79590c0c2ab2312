"""LiveCount: a whole number that may be another one each time it is used."""

from __future__ import annotations

from collections.abc import Callable


class LiveCount:
    """A whole number that is asked for again each time it is used.

    Keras reads how many batches an epoch has when `fit` begins, and counts every epoch by it.
    Epochs whose batches grow have fewer and fewer.

    Args:
        count: Tells the present number, at least 1.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def __index__(self) -> int:
        return self._count()

    __int__ = __index__

    def __float__(self) -> float:
        return float(self._count())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return str(self._count())

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self._count() == other

    def __lt__(self, other: float) -> bool:
        return self._count() < other

    def __le__(self, other: float) -> bool:
        return self._count() <= other

    def __gt__(self, other: float) -> bool:
        return self._count() > other

    def __ge__(self, other: float) -> bool:
        return self._count() >= other

    def __add__(self, other: float) -> float:
        return self._count() + other

    __radd__ = __add__

    def __sub__(self, other: float) -> float:
        return self._count() - other

    def __rsub__(self, other: float) -> float:
        return other - self._count()

    def __mul__(self, other: float) -> float:
        return self._count() * other

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> float:
        return self._count() / other

    def __rtruediv__(self, other: float) -> float:
        return other / self._count()

    def __floordiv__(self, other: float) -> float:
        return self._count() // other

    def __mod__(self, other: float) -> float:
        return self._count() % other
