"""A report answers first, shows only what was measured, and no text in it can break either of its faces."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from support.reports import NAME, at, attempt, compared, report, status, waits

from pgduet.phases import Phase, State
from pgduet.report import facts, html, markdown
from pgduet.report.document import Code, Document, Figures, Items, Mono, Paragraph, Section, Table
from pgduet.report.markdown import escaped
from pgduet.report.pages import answer, document

NASTY = [
    "<script>alert('x')</script>",
    'a "quoted" name',
    "100 % of `them`",
    "a|b\\|c",
    "*bold* _it_ __all__ ~~no~~",
    "# no heading",
    "- no item",
    "1. no list either",
    "> no quote",
    "[a](http://b) ![c](d)",
    "&lt; is no tag &amp; &copy;",
    "```",
    "line\none",
    "Ünïcödé 表 🐘",
    "{braces} {0} {title}",
    "$1 \\1 \\",
]
VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """Reads a page back: its texts, its tags, and whether they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def of_markdown(text: str) -> Page:
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def words_of(page: Document) -> Iterator[str]:
    """Walk the texts of a document that are not drawn."""
    for block in (*page.answer, *(block for section in page.sections for block in section.blocks)):
        match block:
            case Paragraph():
                yield str(block.words)
            case Code():
                yield block.text
            case Table():
                yield from (cell for row in block.rows for cell in row if isinstance(cell, str))
            case Items():
                yield from (item for item in block.items if isinstance(item, str))
            case Figures():
                yield from (text for figure in block.figures for text in figure)


def nasty_report() -> facts.Report:
    decisions = [facts.Decision(at=at(n), actor=text, what="advanced", reason=text) for n, text in enumerate(NASTY)]
    return report(
        attempt(
            decisions=decisions,
            description=NASTY[0],
            owners={text: text for text in NASTY},
            operations=NASTY,
            risks=[{"risk": text, "mitigation": text, "owner": text} for text in NASTY],
            milestones=dict.fromkeys(NASTY, "2026-12-01"),
            hazards=NASTY,
        ),
        name=NASTY[1] + "'; --",
        kept=[facts.Kept(attempt=1, relation='"we ird"."<t>"', side="new", saved=3, restored=1)],
        kept_tables=[facts.KeptTable(attempt=1, name='p/we"ird.<t>', of='"we ird"."<t>"', bytes=10)],
    )


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "render", [lambda page: Page(html.render(page)), lambda page: of_markdown(markdown.render(page))]
)
def test_a_text_is_shown_as_it_is_wherever_it_stands(render: Any, text: str) -> None:
    blocks = (
        Paragraph(text),
        Paragraph(("before ", Mono(text), " after")),
        Items((text, Mono(text))),
        Code(text),
        Table(("head", text), ((text, Mono(text)),)),
    )
    page = render(Document(text, "done", "good", (Figures((("what", text, text),)),), (Section("Part", blocks),), text))
    assert page.open == []
    assert page.tags <= {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "nav", "section", "footer", "a", "span"),
        *("p", "h1", "h2", "ul", "li", "pre", "code", "dl", "div", "dt", "dd", "hr"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    flat = " ".join(text.split())
    assert page.words().count(flat) >= 10, page.words()


def test_nothing_that_steers_a_terminal_gets_into_a_page() -> None:
    evil = "\x1b[2J\x07\x9b31m \u202e"
    page = Document(
        evil, evil, "good", (Paragraph(evil), Code(evil)), (Section("Part", (Items((Mono(evil),)),)),), evil
    )
    for shown in (html.render(page), markdown.render(page)):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)


def test_both_faces_tell_the_same() -> None:
    page = document(nasty_report())
    by_html, by_markdown = Page(html.render(page)).words(), of_markdown(markdown.render(page)).words()
    texts = [" ".join(text.split()) for text in words_of(page) if text.strip()]
    assert len(texts) > 100
    assert [text for text in texts if text not in by_html] == []
    assert [text for text in texts if text not in by_markdown] == []


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = html.render(document(nasty_report()))
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert "script" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    anchors = re.findall(r'<section id="([^"]+)"', text)
    assert [link.removeprefix("#") for link in page.links] == anchors
    assert len(set(anchors)) == len(anchors)


def test_readable_text_is_not_cluttered_with_escapes() -> None:
    assert escaped("9.8 s of public_v2.flights, 100 % (dual_write)") == "9.8 s of public_v2.flights, 100 % (dual_write)"


def test_the_answer_of_a_done_migration() -> None:
    told = answer(report(attempt()))
    assert told == (
        "seats moved database shop from version 1 to version 2: from 2026-11-26 06:00:00 to 2026-11-26 06:03:20 UTC,"
        " 3 min 20 s. The backfill wrote 1,000 rows in 4 batches. The last full comparison found 0 of 1,000 rows different."
        " No table lock was held for longer than 4.2 ms (expand); 0 rows had to be noted for a person."
    )


def test_the_answer_names_every_earlier_attempt_and_what_came_back() -> None:
    turn = facts.Turn(at=at(100), actor="bob", reason="to show it", phase=Phase.SOAK, safe_s=0.3, withdrawn_s=4.0)
    first = attempt(state="rolled_back", phase=Phase.ROLLED_BACK, turn=turn, archived=7)
    second = attempt(number=2, started_at=at(210), ended_at=at(290), restored=7)
    told = answer(report(first, second))
    assert "The first attempt was rolled back from soak by bob (to show it)." in told
    assert "7 values that earlier attempts had archived came back." in told


@pytest.mark.parametrize(
    ("made", "standing", "told"),
    [
        (
            report(
                attempt(state="running", phase=Phase.SHIFT, ended_at=None),
                status=status(
                    Phase.SHIFT,
                    State.WAITING,
                    waiting_for=waits("bake", "bake of the 10 % step", "pgduet advance seats"),
                ),
            ),
            "waiting",
            "is waiting in shift: it waits for bake of the 10 % step.",
        ),
        (
            report(attempt(state="running", phase=Phase.SOAK, ended_at=None)),
            "running",
            "is running in soak.",
        ),
        (
            report(
                attempt(state="running", phase=Phase.BACKFILL, ended_at=None),
                status=status(Phase.BACKFILL, State.FAILED, failure="the workflow was terminated"),
            ),
            "failed",
            "has failed in backfill: the workflow was terminated.",
        ),
        (
            report(status=status(Phase.PREFLIGHT, State.FAILED, failure="PD-1042\n  no such column")),
            "failed",
            "has touched nothing in database shop; it stands in preflight: PD-1042 no such column.",
        ),
        (
            report(
                attempt(state="rolled_back", phase=Phase.ROLLED_BACK),
                status=status(Phase.ROLLED_BACK, State.ROLLED_BACK),
            ),
            "rolled back",
            "would have moved database shop from version 1 to version 2 and was rolled back",
        ),
    ],
    ids=["waiting", "forgotten", "lost", "refused", "rolled back"],
)
def test_the_answer_wherever_a_migration_stands(made: facts.Report, standing: str, told: str) -> None:
    page = document(made)
    assert page.standing == standing
    assert told in answer(made)
    assert Page(html.render(page)).open == []
    assert told in of_markdown(markdown.render(page)).words()


def test_what_temporal_has_forgotten_is_said_to_be_so() -> None:
    assert "Temporal no longer knows its workflow" in document(report(attempt())).foot
    assert "Temporal" not in document(report(attempt(), status=status(Phase.DONE, State.DONE))).foot


def test_what_was_not_measured_is_never_shown_as_zero() -> None:
    bare = attempt(
        filled=None, comparisons=[], comparisons_total=0, locks=[], locks_total=0, phases=[], estimate={"rows": 5}
    )
    text = markdown.render(document(report(bare)))
    assert "| rows to fill | 5 | not measured |" in text
    assert "| rows against a coming constraint | not measured |" in text
    assert "## Backfill" not in text
    assert "## Locks" not in text


def test_rows_that_differed_are_named_by_key_and_nothing_else() -> None:
    found = [{"relation": '"public"."seats"', "key": {"id": 42}, "kind": "mismatch"}]
    text = markdown.render(document(report(attempt(comparisons=[compared(1, mismatches=1, examples=found)]))))
    assert "`public.seats {'id': 42}`" in text


def test_the_sections_come_in_the_order_in_which_people_ask() -> None:
    titles = [section.title for section in document(nasty_report()).sections]
    assert titles == [
        *("Plan", "Timeline", "Decisions", "Effects on clients", "Locks", "Backfill", "Parity"),
        *("Rolled back, archived, restored", "Estimate against actual", "What remains", "Follow-ups", "Lessons"),
        "Risks and milestones",
    ]
    assert document(report(attempt())).title == NAME
