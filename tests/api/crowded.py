"""A store on which others act between what one caller looks up and what it does next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from api.store import Store

Act = Callable[[], object]


class Crowded(Store):
    """The ledger as it is used by several processes at the same moment."""

    _waiting: Act | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state; right after it, whoever waits acts."""
        with super().read() as connection:
            yield connection
        if self._waiting is not None:
            act, self._waiting = self._waiting, None
            act()

    @contextmanager
    def meanwhile(self, act: Act) -> Iterator[None]:
        """Have `act` done, through another store, behind the first look within a block.

        A step that needs no look is done before anybody can act.
        """
        self._waiting = act
        try:
            yield
        finally:
            self._waiting = None
