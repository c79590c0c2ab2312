"""Keys: made, listed, revoked, recognised."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.concurrency import run_in_threadpool

from api.caller import Caller
from api.errors import ApiError
from api.rates import Rate, Rates
from api.schemas.base import Scope
from api.settings import Settings
from api.signing import Signer, signer
from api.store import ALPHABET, Store, keys, newest

PATTERN = re.compile(r"kgo_([0-9A-Za-z]{8})_[0-9A-Za-z_-]{43}")
# A key that was looked up is not looked up again for so long.
FRESH_SECONDS = 5.0
# The last use is written at most so often.
USE_SECONDS = 60.0
MOST_KNOWN = 10_000
# Of 2020; ids of keys count seconds from here, so that they sort by time.
EPOCH = 1_577_836_800
SESSION_SECONDS = 12 * 3600
NO_DIGEST = "-" * 43


@dataclass(frozen=True)
class Known:
    """A key as it stood when it was looked up."""

    digest: str
    caller: Caller
    expires_at: float | None
    looked_up: float

    @property
    def fresh(self) -> bool:
        """Whether it need not be looked up again."""
        return time.monotonic() - self.looked_up < FRESH_SECONDS

    @property
    def valid(self) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or time.time() < self.expires_at


class Keys:
    """The keys of the service. Of a key, only a digest is kept.

    Args:
        store: Where they are kept.
        signer: Makes the digests, and signs sessions.
        guesses: How often an address may be wrong.
    """

    def __init__(self, store: Store, signer: Signer, guesses: Rate) -> None:
        self._store = store
        self._signer = signer
        self._guesses = guesses
        self._known: dict[str, Known] = {}

    def create(
        self, tenant: str, name: str, scopes: Sequence[Scope], days: int | None
    ) -> tuple[Row[Any], str]:
        """Make a key.

        Args:
            tenant: Whose things it opens.
            name: What people call it.
            scopes: What it may do.
            days: For how long; None is for ever.

        Returns:
            Its row, and the key itself, which is nowhere else.
        """
        now = time.time()
        public = _public_id(now)
        key = f"kgo_{public}_{secrets.token_urlsafe(32)}"
        values = {
            "id": public,
            "tenant": tenant,
            "name": name,
            "scopes": list(dict.fromkeys(scopes)),
            "digest": self._signer.sign("key", key),
            "created_at": now,
            "expires_at": None if days is None else now + days * 86400,
        }
        try:
            with self._store.write() as connection:
                connection.execute(keys.insert().values(**values))
                row = connection.execute(sa.select(keys).where(keys.c.id == public)).one()
        except IntegrityError:  # the same second and the same chance of a thousand
            return self.create(tenant, name, scopes, days)
        return row, key

    def newest(self, tenant: str, limit: int, before: str | None) -> Sequence[Row[Any]]:
        """A tenant's keys from the newest on."""
        with self._store.read() as connection:
            return newest(connection, keys, tenant, limit, before)

    def all(self) -> Sequence[Row[Any]]:
        """Everybody's keys, for whoever is at the machine."""
        with self._store.read() as connection:
            return connection.execute(sa.select(keys).order_by(keys.c.id)).all()

    def revoke(self, public: str, tenant: str | None = None) -> bool:
        """End a key; False where there is none.

        Args:
            public: Its id.
            tenant: Whose it must be; None for whoever is at the machine.
        """
        own = () if tenant is None else (keys.c.tenant == tenant,)
        change = keys.update().where(keys.c.id == public, *own)
        values = {"revoked_at": sa.func.coalesce(keys.c.revoked_at, time.time())}
        with self._store.write() as connection:
            found = connection.execute(change.values(**values)).rowcount
        self._known.pop(public, None)
        return bool(found)

    def usable(self) -> bool:
        """Whether anybody can come in."""
        valid = sa.or_(keys.c.expires_at.is_(None), keys.c.expires_at > time.time())
        query = sa.select(keys.c.id).where(keys.c.revoked_at.is_(None), valid).limit(1)
        with self._store.read() as connection:
            return connection.scalar(query) is not None

    async def recognise(self, key: str, address: str) -> Caller:
        """Whose a key is.

        Args:
            key: As it was sent.
            address: From where; too many wrong keys from there are not looked at.

        Raises:
            ApiError: It is nobody's, has expired or was revoked; or too many were wrong.
        """
        matched = PATTERN.fullmatch(key)
        public = matched[1] if matched else ""
        digest = self._signer.sign("key", key)
        known = self._known.get(public)
        proven = _proves(known, digest)
        if not (known and known.fresh and proven):
            if not proven and self._guesses.left(address) < 1:
                self._guesses.take(address)
            known = await run_in_threadpool(self._look_up, public)
            proven = _proves(known, digest)
        if known is None or not proven or not known.valid:
            self._guesses.take(address)
            raise invalid_key()
        return known.caller

    def session(self, caller: Caller) -> str:
        """A cookie's value that stands for a caller's key."""
        text = f"{caller.key}.{int(time.time()) + SESSION_SECONDS}"
        return f"{text}.{self._signer.sign('session', text)}"

    async def of_session(self, cookie: str, address: str) -> Caller:
        """Whose a session is.

        Raises:
            ApiError: It is nobody's, is over, or its key is not valid any more.
        """
        text, _, signature = cookie.rpartition(".")
        if not self._signer.holds("session", text, signature):
            self._guesses.take(address)
            raise invalid_key()
        public, _, until = text.partition(".")
        known = self._known.get(public)
        if known is None or not known.fresh:
            known = await run_in_threadpool(self._look_up, public)
        if known is None or not known.valid or time.time() > int(until):
            raise invalid_key()
        return known.caller

    def _look_up(self, public: str) -> Known | None:
        with self._store.read() as connection:
            row = connection.execute(sa.select(keys).where(keys.c.id == public)).one_or_none()
        if row is None or row.revoked_at is not None:
            self._known.pop(public, None)
            return None
        now = time.time()
        if row.last_used_at is None or now - row.last_used_at > USE_SECONDS:
            # Whether it is written is no reason to keep somebody out.
            with suppress(OperationalError), self._store.write() as connection:
                used = keys.update().where(keys.c.id == public)
                connection.execute(used.values(last_used_at=now))
        caller = Caller(row.tenant, row.id, frozenset(row.scopes))
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        known = Known(row.digest, caller, row.expires_at, time.monotonic())
        self._known[public] = known
        return known


@contextmanager
def keys_of(settings: Settings) -> Iterator[Keys]:
    """The keys of a data folder, beside the service or before it."""
    store = Store(settings)
    store.migrate()
    try:
        yield Keys(store, signer(settings), Rates(settings).guesses)
    finally:
        store.close()


def invalid_key() -> ApiError:
    """The error for a key that opens nothing, whatever the reason."""
    return ApiError(
        "invalid_key",
        "This key is not known here, has expired or was revoked. Ask an administrator for a "
        "new one: gradopt keys create.",
        headers={"WWW-Authenticate": 'Bearer realm="gradopt", error="invalid_token"'},
    )


def missing_key() -> ApiError:
    """The error for no key at all."""
    return ApiError(
        "missing_key",
        "A key is needed: send the header Authorization: Bearer kgo_..., or sign in at /session.",
        headers={"WWW-Authenticate": 'Bearer realm="gradopt"'},
    )


def _proves(known: Known | None, digest: str) -> bool:
    return hmac.compare_digest(known.digest if known else NO_DIGEST, digest)


def _public_id(now: float) -> str:
    number = (int(now - EPOCH) << 10) | secrets.randbits(10)
    return "".join(ALPHABET[number >> 5 * i & 31] for i in reversed(range(8)))
