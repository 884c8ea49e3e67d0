"""`report`: what became of a migration, as a page to keep: Markdown, HTML, or the facts as JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pgduet.cli import options
from pgduet.cli.session import DONE, Screen, run
from pgduet.client import Migrations
from pgduet.errors import PgduetError
from pgduet.report import html, markdown
from pgduet.report.facts import Report
from pgduet.report.findings import fallbacks, follow_ups
from pgduet.report.lessons import lessons, milestones
from pgduet.report.pages import answer, document

LookIn = Annotated[
    str | None,
    typer.Option("--database", metavar="DB", help="Its database: where several have the name, or Temporal forgot it."),
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write the page there, over what is there.")
]


def report(
    name: options.Name,
    *,
    as_html: Annotated[bool, typer.Option("--html", help="One HTML page that needs nothing else.")] = False,
    output: Output = None,
    database: LookIn = None,
    as_json: options.AsJson = False,
) -> None:
    """Report what became of a migration. All its attempts, from measurements and recorded decisions; Markdown by default."""
    if as_html and as_json:
        raise typer.BadParameter("--html and --json exclude each other")

    async def job(screen: Screen) -> int:
        migrations = await Migrations.connect()
        found = await migrations.report(name, database)
        facts = report_facts(found)
        page = json.dumps(facts, ensure_ascii=False) + "\n" if as_json else rendered(found, as_html=as_html)
        if output is None:
            typer.echo(page, nl=False)
            return DONE
        _write(output, page)
        screen.note(f"wrote {output}")
        return DONE

    run(job, as_json=as_json)


def rendered(found: Report, *, as_html: bool) -> str:
    """Render a report as a page."""
    page = document(found)
    return html.render(page) if as_html else markdown.render(page)


def report_facts(found: Report) -> dict[str, Any]:
    """Give the facts of a report, with what follows from them."""
    return found.model_dump(mode="json") | {
        "answer": answer(found),
        "follow_ups": [each.model_dump(mode="json") for each in follow_ups(found)],
        "fallbacks": [each.model_dump(mode="json") for each in fallbacks(found)],
        "lessons": [each.model_dump(mode="json") for each in lessons(found)],
        "milestones": [each.model_dump(mode="json") for each in milestones(found)],
    }


def _write(output: Path, page: str) -> None:
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as wrong:
        message = f"cannot write {output}: {wrong.strerror or type(wrong).__name__}"
        raise PgduetError(message, hint="Give --output a file in a folder that is there and may be written.") from wrong
