"""Renders a document as one HTML page that needs nothing else: no script, no font, no image. Pure.

Every text is escaped by the standard library; readable in light and dark, on a phone and on paper.
"""

import html
import re

from pgduet.report.document import (
    Bar,
    Block,
    Cell,
    Code,
    Document,
    Figures,
    Items,
    Mono,
    Paragraph,
    Section,
    Table,
    Words,
    pieces,
    shown,
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<p class="kicker">pgduet report</p>
<h1>{title} <span class="badge {tone}">{standing}</span></h1>
{answer}
</header>
<nav aria-label="Sections">{contents}</nav>
{sections}
<footer>{foot}</footer>
</main>
</body>
</html>
"""

_STYLE = """
:root { --paper: #fff; --ink: #1b1f24; --dim: #59636e; --line: #d8dee4; --soft: #f5f7f9; --accent: #2f6fd0;
  --good: #1a7f37; --back: #7a4dc4; --bad: #c2261d; --open: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --paper: #11151a; --ink: #e2e7ec; --dim: #98a3af; --line: #2f3741;
  --soft: #1a2027; --accent: #6ca6f5; --good: #4cc26a; --back: #b794f6; --bad: #ff7b72; --open: #e0b040; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
.kicker { margin: 0; color: var(--dim); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: .2rem 0 1rem; font-size: 1.9rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
header > p:not(.kicker) { font-size: 1.08rem; max-width: 50rem; }
p, li { max-width: 50rem; overflow-wrap: anywhere; }
ul { padding-left: 1.3rem; } li { margin: .3rem 0; }
.badge { display: inline-block; vertical-align: .18em; padding: .12rem .7rem; border: 1.5px solid currentColor;
  border-radius: 1rem; font-size: .85rem; font-weight: 600; letter-spacing: .01em; white-space: nowrap; }
.good { color: var(--good); } .back { color: var(--back); } .bad { color: var(--bad); } .open { color: var(--open); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.4rem, 1fr)); gap: .8rem; margin: 1.4rem 0; padding: 0; }
.figures div { padding: .8rem 1rem; background: var(--soft); border: 1px solid var(--line); border-radius: .6rem; }
.figures dt { color: var(--dim); font-size: .82rem; }
.figures dd { margin: .1rem 0 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.figures dd + dd { font-size: .82rem; font-weight: 400; color: var(--dim); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin-top: 1.4rem; font-size: .9rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: .2em; }
.wide { overflow-x: auto; margin: .8rem 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--dim); font-weight: 500; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
th.n, td.n { text-align: right; white-space: nowrap; } td.b { width: 22%; min-width: 6rem; vertical-align: middle; }
.bar { display: block; height: .62rem; min-width: 2px; border-radius: .2rem; background: var(--accent); }
code, pre { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { padding: .08em .35em; background: var(--soft); border-radius: .3em; overflow-wrap: anywhere; }
td code { overflow-wrap: normal; }
pre { padding: .8rem 1rem; background: var(--soft); border: 1px solid var(--line); border-radius: .6rem; overflow-x: auto; }
pre code { padding: 0; background: none; overflow-wrap: normal; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--dim); font-size: .85rem;
  overflow-wrap: anywhere; }
@media print { :root { --paper: #fff; --ink: #000; --dim: #444; --line: #bbb; --soft: #fff; --accent: #555;
  --good: #000; --back: #000; --bad: #000; --open: #000; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
  .wide { overflow: visible; } td, td code { overflow-wrap: anywhere; } th, th.n, td.n { white-space: normal; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  h2 { break-after: avoid; margin-top: 1.4rem; } tr, .figures div, pre { break-inside: avoid; }
  .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def render(document: Document) -> str:
    """Render a page."""
    return _PAGE.format(
        title=_text(document.title),
        style=_STYLE,
        tone=_text(document.tone),
        standing=_text(document.standing),
        answer="\n".join(map(_block, document.answer)),
        contents="".join(f'<a href="#{_anchor(s.title)}">{_text(s.title)}</a>' for s in document.sections),
        sections="\n".join(map(_section, document.sections)),
        foot=_text(document.foot),
    )


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{_anchor(section.title)}">\n<h2>{_text(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{_words(block.words)}</p>"
        case Items():
            return "<ul>" + "".join(f"<li>{_words(item)}</li>" for item in block.items) + "</ul>"
        case Code():
            return f"<pre><code>{_text(block.text)}</code></pre>"
        case Figures():
            return '<dl class="figures">' + "".join(map(_figure, block.figures)) + "</dl>"
        case Table():
            return _table(block)


def _figure(figure: tuple[str, str, str]) -> str:
    what, how_much, note = map(_text, figure)
    return f"<div><dt>{what}</dt><dd>{how_much}</dd>" + (f"<dd>{note}</dd>" if note else "") + "</div>"


def _table(table: Table) -> str:
    numbers = [' class="n"' if head in table.right else "" for head in table.head]
    heads = "".join(f"<th{kind}>{_text(head)}</th>" for head, kind in zip(table.head, numbers, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell(cell, kind) for cell, kind in zip(row, numbers, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: Cell, kind: str) -> str:
    if isinstance(cell, Bar):
        share = 100 * max(0.0, min(1.0, cell.share))
        return f'<td class="b"><span class="bar" style="width:{share:.1f}%"></span></td>'
    return f"<td{kind}>{_words(cell)}</td>"


def _words(words: Words) -> str:
    return "".join(
        f"<code>{_text(piece.text)}</code>" if isinstance(piece, Mono) else _text(piece) for piece in pieces(words)
    )


def _text(text: str) -> str:
    return html.escape(shown(text), quote=True)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
