"""Who asks: the tenant, the key, and what the key may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from api.errors import ApiError
from api.schemas.base import Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)
# Whose everything is where no keys are asked for.
LOCAL = "local"


@dataclass(frozen=True)
class Caller:
    """Whoever asks.

    Attributes:
        tenant: What callers of the same tenant make is theirs together, and nobody else's.
        key: Public id of the key; None where no keys are asked for.
        scopes: What the key may do.
    """

    tenant: str
    key: str | None
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key has this scope."""
        return scope in self.scopes

    def must(self, scope: Scope) -> None:
        """Refuse what the key may not do.

        Raises:
            ApiError: It lacks the scope.
        """
        if not self.may(scope):
            raise ApiError(
                "insufficient_scope",
                f"This needs a key with the scope {scope!r}; yours has "
                f"{', '.join(sorted(self.scopes)) or 'none'}. Ask an administrator for one.",
            )


ANYBODY_HERE = Caller(LOCAL, None, frozenset(SCOPES))
