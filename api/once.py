"""Requests that are done once however often they are sent: `Idempotency-Key`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO

import sqlalchemy as sa
from fastapi import Header, Request
from pydantic import BaseModel
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from api.errors import ApiError
from api.library import CHUNK, Also
from api.store import Store, idempotency

KEPT_SECONDS = 24 * 3600.0
REPLAYED = "Idempotency-Replayed"


@dataclass(frozen=True)
class Created:
    """What is answered to whoever made something.

    Attributes:
        status: Of HTTP.
        shape: The answer's model.
        body: Its content.
        headers: Further headers.
    """

    status: int
    shape: type[BaseModel]
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body as it is sent."""
        return self.shape.model_validate(self.body).model_dump_json()


class Taken(Exception):
    """Another request has used the key meanwhile."""


@dataclass(frozen=True)
class Once:
    """One request that makes something.

    Attributes:
        store: Where answers are kept, in the transaction of what they tell of.
        tenant: Whose key it is.
        key: What the caller calls the request; None does it every time.
        place: Method and path.
    """

    store: Store
    tenant: str
    key: str | None
    place: str

    def create(
        self,
        content: bytes | BinaryIO,
        make: Callable[[Also], Row[Any]],
        answer: Callable[[Row[Any]], Created],
        *,
        beside: str = "",
    ) -> Response:
        """Make it, unless that was done; answer the same in both cases.

        Args:
            content: What tells this request from others: its body or file.
            make: Makes it, and calls what it is given with the row in the same transaction.
            answer: What is said of the row.
            beside: What else tells it from others.

        Raises:
            ApiError: The key was used for another request.
        """
        if self.key is None:
            return _response(answer(make(None)))
        print_ = self._fingerprint(content, beside)
        replayed = self._replayed(print_)
        if replayed is not None:
            return replayed
        made: list[Created] = []

        def keep(connection: Connection, row: Row[Any]) -> None:
            made.append(answer(row))
            self._keep(connection, print_, made[0])

        try:
            make(keep)
        except Taken:
            replayed = self._replayed(print_)
            assert replayed is not None  # whoever took it has committed it with its answer
            return replayed
        return _response(made[0])

    def _fingerprint(self, content: bytes | BinaryIO, beside: str) -> str:
        if isinstance(content, bytes):
            body = hashlib.sha256(content)
        else:
            body = hashlib.sha256()
            while chunk := content.read(CHUNK):
                body.update(chunk)
            content.seek(0)
        return hashlib.sha256(f"{self.place}\n{body.hexdigest()}\n{beside}".encode()).hexdigest()

    def _replayed(self, print_: str) -> Response | None:
        """What was answered the first time; None where this is the first time."""
        with self.store.read() as connection:
            query = sa.select(idempotency).where(self._mine(), idempotency.c.created_at > _oldest())
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.fingerprint != print_:
            raise ApiError(
                "idempotency_key_reused",
                "This Idempotency-Key came with another request in the last 24 hours. Take a "
                "fresh one for each request, and the same one only to send a request again.",
            )
        headers = {**row.headers, REPLAYED: "true"}
        return Response(row.body, row.status, headers, media_type="application/json")

    def _keep(self, connection: Connection, print_: str, created: Created) -> None:
        old = sa.and_(self._mine(), idempotency.c.created_at <= _oldest())
        connection.execute(idempotency.delete().where(old))
        values = {
            "tenant": self.tenant,
            "key": self.key,
            "fingerprint": print_,
            "status": created.status,
            "body": created.text,
            "headers": dict(created.headers),
            "created_at": time.time(),
        }
        try:
            connection.execute(idempotency.insert().values(**values))
        except IntegrityError as error:
            raise Taken from error

    def _mine(self) -> sa.ColumnElement[bool]:
        return sa.and_(idempotency.c.tenant == self.tenant, idempotency.c.key == self.key)


async def once(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[ -~]{1,128}$",
            description="Your name for this request: sent again within 24 hours, it is not done "
            "again, and the first answer comes back with `Idempotency-Replayed: true`.",
        ),
    ] = None,
) -> Once:
    """The request as one that is done once."""
    place = f"{request.method} {request.url.path}"
    tenant = request.state.caller.tenant
    return Once(request.app.state.store, tenant, idempotency_key, place)


def forget_old(connection: Connection) -> None:
    """Delete answers that are kept no longer."""
    connection.execute(idempotency.delete().where(idempotency.c.created_at <= _oldest()))


def _oldest() -> float:
    return time.time() - KEPT_SECONDS


def _response(created: Created) -> Response:
    return Response(
        created.text, created.status, dict(created.headers), media_type="application/json"
    )
