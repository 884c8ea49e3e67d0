"""The commands by which somebody acts on a running migration: each is one update of its workflow, and is recorded."""

from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.text import Text

from pgduet import messages
from pgduet.cli import options
from pgduet.cli.session import Screen, run
from pgduet.client import Migrations
from pgduet.messages import Answer
from pgduet.phases import Phase
from pgduet.windows import FORM, Window, read_window
from pgduet.wire import problems

Gate = Annotated[Phase, typer.Option("--gate", help="The phase whose gate is approved.", show_default=False)]
Percent = Annotated[int, typer.Option("--read-percent", min=0, max=100, metavar="P", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Go past clients that still use the old version.")]
BatchTarget = Annotated[float | None, typer.Option("--batch-target-ms", min=1, max=250, help="How long a batch takes.")]
Pause = Annotated[float | None, typer.Option("--pause-ms", min=0, max=600_000, help="The pause between batches.")]
Lag = Annotated[
    float | None, typer.Option("--max-replica-lag-s", min=0.001, max=86_400, help="Hold while a replica lags more.")
]

WalRetained = Annotated[
    float | None, typer.Option("--max-wal-retained-mb", min=1, max=1e9, help="Hold while a slot retains more WAL.")
]
ClientSlowdown = Annotated[
    float | None,
    typer.Option(
        "--max-client-slowdown",
        min=1.05,
        max=1e6,
        help="Work less while clients' statements take so many times as long.",
    ),
]
When = Annotated[
    str | None,
    typer.Option("--window", metavar="WINDOW", help=f"When it may work, as in `{FORM}`; `none`: at any time."),
]
Reset = Annotated[bool, typer.Option("--reset", help="First take everything back to the plan's.")]
Parallelism = Annotated[
    int | None, typer.Option("--parallelism", min=1, max=64, help="How many ranges are filled at the same time.")
]


def advance(
    name: options.Name,
    *,
    force: Force = False,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Open a gate, or end a bake or a soak early. Refused where approvals are missing, or clients are left."""
    message = messages.Advance(actor=_who(actor), reason=reason, force=force)
    _act(name, database, "advance", message, as_json=as_json)


def approve(
    name: options.Name,
    *,
    gate: Gate,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Add your approval of the gate before a phase."""
    approval = messages.Approve(gate=gate, actor=_who(actor), reason=reason)
    _act(name, database, "approve", approval, as_json=as_json)


def pause(
    name: options.Name,
    *,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Hold a migration where it is."""
    _act(name, database, "pause", messages.Act(actor=_who(actor), reason=reason), as_json=as_json)


def resume(
    name: options.Name,
    *,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a paused migration go on."""
    _act(name, database, "resume", messages.Act(actor=_who(actor), reason=reason), as_json=as_json)


def throttle(
    name: options.Name,
    *,
    batch_target_ms: BatchTarget = None,
    pause_ms: Pause = None,
    max_replica_lag_s: Lag = None,
    max_wal_retained_mb: WalRetained = None,
    max_client_slowdown: ClientSlowdown = None,
    parallelism: Parallelism = None,
    window: When = None,
    reset: Reset = False,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Change the pace of the backfill. What is not given stays."""
    pace = messages.Throttle(
        batch_target_ms=batch_target_ms,
        pause_ms=pause_ms,
        max_replica_lag_s=max_replica_lag_s,
        max_wal_retained_mb=max_wal_retained_mb,
        max_client_slowdown=max_client_slowdown,
        parallelism=parallelism,
        window=_window(window),
        reset=reset,
        actor=_who(actor),
        reason=reason,
    )
    if not (pace.limits() or pace.reset):
        known = ", ".join(f"--{name.replace('_', '-')}" for name in pace.PACE)
        raise typer.BadParameter(f"give at least one of {known}, or --reset")
    _act(name, database, "throttle", pace, as_json=as_json)


def route(
    name: options.Name,
    *,
    read_percent: Percent,
    database: options.Database = None,
    actor: options.Actor = "",
    reason: options.Reason = None,
    as_json: options.AsJson = False,
) -> None:
    """Set the share of reads on the new version."""
    share = messages.Route(read_percent=read_percent, actor=_who(actor), reason=reason)
    _act(name, database, "route", share, as_json=as_json)


def answer_page(answer: Answer) -> RenderableType:
    """Render what became of an act."""
    following = [Text(f"{'' if index else 'next':4}  {each}") for index, each in enumerate(answer.next_commands)]
    return Group(Text(answer.message), *([Text(""), *following] if following else []))


def _window(text: str | None) -> Window | Literal["none"] | None:
    if text is None:
        return None
    try:
        return read_window(text)
    except ValidationError as wrong:
        raise typer.BadParameter(problems(wrong, ""), param_hint="--window") from None
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--window") from None


def _who(actor: str) -> str:
    return actor or options.os_user()


def _act(name: str, database: str | None, update: str, model: messages.Act, *, as_json: bool) -> None:
    async def job(screen: Screen) -> None:
        migrations = await Migrations.connect()
        answer = await migrations.update(name, update, model, database=database)
        screen.show(answer_page(answer), answer.model_dump(mode="json"))

    run(job, as_json=as_json)
