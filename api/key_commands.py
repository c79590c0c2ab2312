"""`gradopt keys`: make, list and revoke keys, for whoever is at the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from api.cli import DataDir, _extra, _settings
from recommender.errors import RequestError

if TYPE_CHECKING:  # keys need an extra that may not be installed
    from api.keys import Keys

app = typer.Typer(help="Who may use the service from another machine.", no_args_is_help=True)
LOCAL = "local"
# Wide enough for every column, so that what reads the list finds whole ids.
LIST_WIDTH = 180


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What to call it.")],
    tenant: Annotated[str, typer.Option(help="Whose uploads and jobs it opens.")] = LOCAL,
    scopes: Annotated[
        str, typer.Option(help="What it may, with commas: advise, read, write, admin.")
    ] = "advise,read,write",
    days: Annotated[int, typer.Option(min=0, max=3650, help="Valid so long; 0: always.")] = 365,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is printed once, alone on standard output; only a digest of it is kept."""
    with _keys(data_dir) as keys:
        from api.caller import SCOPES

        wanted = [one for one in SCOPES if one in {part.strip() for part in scopes.split(",")}]
        if len(wanted) != len(scopes.split(",")):
            raise RequestError(
                f"--scopes {scopes!r}: expected one or more of {', '.join(SCOPES)}, with commas."
            )
        row, key = keys.create(tenant, name, wanted, days or None)
    said = Console(stderr=True, soft_wrap=True, highlight=False)
    said.print(
        f"Key {row.id} of {tenant!r} may {', '.join(wanted)}. Keep it; it is not shown again:"
    )
    typer.echo(key)


@app.command("list")
def list_(data_dir: DataDir = None) -> None:
    """Show all keys, those that were revoked or have expired too."""
    from rich.table import Table

    with _keys(data_dir) as keys:
        from api.present import moment

        heads = ("id", "tenant", "name", "scopes", "made", "expires", "last used", "revoked")
        table = Table(*heads, box=None)
        for row in keys.all():
            times = (row.created_at, row.expires_at, row.last_used_at, row.revoked_at)
            shown = ((moment(one) or "")[:16] for one in times)
            table.add_row(row.id, row.tenant, row.name, " ".join(row.scopes), *shown)
    Console(width=LIST_WIDTH).print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `gradopt keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """End a key; a running service knows within seconds."""
    with _keys(data_dir) as keys:
        if not keys.revoke(key_id):
            raise RequestError(f"there is no key {key_id!r}. See: gradopt keys list.")
    typer.echo(f"Key {key_id} is revoked.")


@contextmanager
def _keys(data_dir: DataDir) -> Iterator[Keys]:
    with _extra():
        from api.keys import keys_of
    with keys_of(_settings(data_dir)) as keys:
        yield keys
