"""A result as a data frame and as what a notebook shows."""

from __future__ import annotations

import html.parser
import sys

import pandas as pd
import pytest

import refiner_cka as rc
from refiner_cka.errors import ResultError
from refiner_cka.results import export
from tests.synthetic import synthetic_result, with_smoothing

HOSTILE = "<script>alert('1')</script>&amp;\x1b[2J\"\udcff"


@pytest.fixture(scope="module")
def result():
    made = synthetic_result({"a": 4, "b": 3}, batches=10, unresolved=["b"], constant=[("a", 1)])
    return with_smoothing(made, refined=["b"])


def test_a_data_frame_is_the_csv_table(result, tmp_path):
    export(result, tmp_path / "run.csv")
    table = result.to_dataframe()
    read = pd.read_csv(tmp_path / "run.csv", keep_default_na=False, na_values=["NaN"])
    pd.testing.assert_frame_equal(table, read)
    assert table.resolved.dtype == bool
    assert table.value.isna().any()


def test_without_pandas_it_says_what_to_do(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResultError, match=r"pip install pandas, or export to a \.csv file$"):
        result.to_dataframe()


class Reader(html.parser.HTMLParser):
    """Takes a page apart: its cells and paragraphs, and every tag."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert not attributes
        self.tags.append(tag)
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def test_a_notebook_shows_the_summary():
    result = synthetic_result({"a": 4, "b": 3}, batches=10)
    shown = Reader(result._repr_html_())
    summary = rc.summarize(result)
    told = [
        *(cell for table in summary.tables for row in (table.headers, *table.rows) for cell in row),
        *summary.sentences,
    ]
    assert [text.strip() for text in shown.texts if text.strip()] == told
    assert shown.tags.count("table") == len(summary.tables) == 2
    assert repr(result).startswith("<Result: a, b;")


def test_no_name_is_taken_for_markup():
    result = synthetic_result({HOSTILE: 2, "b": 2}, batches=4)
    page = result._repr_html_()
    shown = Reader(page)
    assert set(shown.tags) == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    spelt = HOSTILE.replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")
    assert spelt in shown.texts
    assert page.isascii()
    assert "<script" not in page


def test_a_result_of_nothing_yet_is_shown_and_tabled():
    result = synthetic_result(batches=0, total_batches=9)
    assert "Incomplete" in result._repr_html_()
    assert result.to_dataframe().value.isna().all()
