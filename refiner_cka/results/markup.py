"""The tables and sentences of a summary as HTML, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from ..errors import printable
from .summary import Table


def page(tables: Iterable[Table], sentences: Iterable[str]) -> str:
    """Return tables with sentences below them; no text in them is taken for markup."""
    drawn = [
        f"<table><thead>{_row('th', table.headers)}</thead>"
        f"<tbody>{''.join(_row('td', row) for row in table.rows)}</tbody></table>"
        for table in tables
    ]
    return "\n".join([*drawn, *(f"<p>{_text(sentence)}</p>" for sentence in sentences)])


def _row(cell: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{_text(text)}</{cell}>' for text in texts)}</tr>"


def _text(text: str) -> str:
    return html.escape(printable(text))
