"""The server's secret, and what is signed with it."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path

from api.settings import Settings
from recommender.errors import RequestError

LEAST_BYTES = 32


class Signer:
    """Signs texts; a signature for one purpose is none for another.

    Args:
        secret: Known to this service only.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, purpose: str, text: str) -> str:
        """The HMAC-SHA-256 of a text, in 43 characters of base64url."""
        digest = hmac.digest(self._secret, f"{purpose}\0{text}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def holds(self, purpose: str, text: str, signature: str) -> bool:
        """Whether a signature is this text's; takes as long whether it is or not."""
        return hmac.compare_digest(self.sign(purpose, text).encode(), signature.encode())


def signer(settings: Settings) -> Signer:
    """The signer of a data folder; its secret is made at the first start.

    Args:
        settings: The service's.

    Raises:
        RequestError: The file of the secret cannot be read, or holds too little.
    """
    path = settings.secret_file
    try:
        secret = _made(settings.data_dir / "secret") if path is None else path.read_bytes().strip()
    except OSError as error:
        raise RequestError(
            f"the secret in {error.filename} cannot be read: {error.strerror}. Name a readable "
            "file by KGO_SECRET_FILE.",
            code="secret_unreadable",
        ) from error
    if len(secret) < LEAST_BYTES:
        raise RequestError(
            f"the secret has {len(secret)} bytes; at least {LEAST_BYTES} random ones are needed: "
            "openssl rand -hex 32 > FILE.",
            code="secret_short",
        )
    return Signer(secret)


def _made(path: Path) -> bytes:
    """A file's secret; where two processes make it at once, both get the first one's."""
    if not path.exists():
        mine = path.with_name(f"secret.{secrets.token_hex(8)}")
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_hex(LEAST_BYTES).encode())
            opened.flush()
            os.fsync(opened.fileno())
        try:
            path.hardlink_to(mine)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return path.read_bytes()
