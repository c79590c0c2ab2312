"""Lists in pages: cursors are signed, and belong to one tenant, list and filter."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request
from sqlalchemy import Row

from api.errors import ApiError, error_at
from api.signing import Signer

OWN = ("limit", "after")


@dataclass(frozen=True)
class Page:
    """The part of a list that is asked for.

    Attributes:
        limit: At most so many entries.
        after: The last page's cursor.
        listed: Tenant, list and filter.
        signer: Signs cursors.
    """

    limit: int
    after: str | None
    listed: str
    signer: Signer

    def of(
        self,
        find: Callable[[int, str | None], Sequence[Row[Any]]],
        show: Callable[[Row[Any]], dict[str, Any]],
    ) -> dict[str, Any]:
        """The page.

        Args:
            find: Rows from the newest on, at most so many, older than the one of an id.
            show: A row as callers see it.

        Raises:
            ApiError: The cursor is not this list's.
        """
        rows = find(self.limit + 1, None if self.after is None else self._read(self.after))
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return {
            "data": [show(row) for row in shown],
            "next": self._write(shown[-1].id) if more else None,
            "has_more": more,
        }

    def _write(self, last: str) -> str:
        text = base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")
        return f"{text}.{self.signer.sign('cursor', self._signed(last))}"

    def _read(self, cursor: str) -> str:
        text, _, signature = cursor.partition(".")
        try:
            last = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except (binascii.Error, ValueError) as error:
            raise _not_ours() from error
        if not self.signer.holds("cursor", self._signed(last), signature):
            raise _not_ours()
        return last

    def _signed(self, last: str) -> str:
        return f"{self.listed}\n{last}"


async def page(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[
        str | None, Query(max_length=200, description="`next` of the page before.")
    ] = None,
) -> Page:
    """The page that a request asks for."""
    filters = sorted(pair for pair in request.query_params.multi_items() if pair[0] not in OWN)
    listed = f"{request.state.caller.tenant}\n{request.url.path}\n{urlencode(filters)}"
    return Page(limit, after, listed, request.app.state.signer)


def _not_ours() -> ApiError:
    return error_at(
        "/after",
        "validation_failed",
        "This cursor does not belong to this list. Pass the `next` of the page before, with the "
        "same filter, or leave it out to begin at the newest.",
    )
