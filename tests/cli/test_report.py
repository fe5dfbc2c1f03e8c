"""The command `report`: one page from a result file, or one line that says why not."""

from pathlib import Path

import pytest

from tests.cli.running import refused, succeed
from tests.synthetic import synthetic_result


@pytest.fixture
def stored():
    synthetic_result({"a": 3, "b": 3}, batches=2).save("run.h5")
    synthetic_result({"a": 3}, batches=2, total_batches=5).save("half.h5")


def test_a_page_lies_beside_the_result_or_where_it_is_asked_for(stored):
    assert "wrote run.html" in succeed("report", "run.h5").stderr
    assert Path("run.html").read_text().startswith("<!doctype html>")
    assert succeed("report", "run.h5", "-o", "new/page.htm", "--quiet").stderr == ""
    assert Path("new/page.htm").read_bytes() == Path("run.html").read_bytes()


def test_an_unfinished_file_says_how_much_it_holds(stored):
    done = succeed("report", "half.h5", "-o", "half.html")
    assert "half.h5 is unfinished: it holds 2 of 5 batches, 32 images" in done.stderr
    assert "Unfinished: this page is of 2 of 5 batches." in Path("half.html").read_text()


def test_what_is_no_result_or_cannot_be_written_is_one_line(stored):
    Path("text.h5").write_text("no result")
    assert "text.h5" in refused("report", "text.h5")
    assert "run.h5 is a file, not a folder" in refused("report", "run.h5", "-o", "run.h5/page.html")
    before = Path("run.h5").read_bytes()
    line = refused("report", "run.h5", "-o", "run.h5")
    assert line == "error: a report is a page for a browser: give run.h5 the suffix .html"
    assert Path("run.h5").read_bytes() == before
    Path("folder.html").mkdir()
    assert "is a folder" in refused("report", "run.h5", "-o", "folder.html")
    assert sorted(path.name for path in Path.cwd().iterdir()) == [
        "folder.html",
        "half.h5",
        "run.h5",
        "text.h5",
    ]
