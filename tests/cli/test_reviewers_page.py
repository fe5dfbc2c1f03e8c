"""Every command of docs/reviewers.md runs, and its questions are those that are answered."""

import re
import shlex

import pytest

import refiner_cka as rc
from tests.cli.running import ROOT, succeed
from tests.synthetic import synthetic_result

PAGE = (ROOT / "docs" / "reviewers.md").read_text()
COMMANDS = re.findall(r"^    refiner-cka (.+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_runs(line, tmp_path):
    for name in ("demo", "again"):
        (tmp_path / "results" / name).mkdir(parents=True)
        synthetic_result({"a": 3}, batches=4).save(tmp_path / "results" / name / "analysis.h5")
    succeed(*shlex.split(line))


def test_the_page_has_the_commands_and_the_questions_in_their_order():
    assert {line.split()[0] for line in COMMANDS} == {"show", "diff", "export"}
    questions = re.findall(r"^\| ([A-Z][^|]+\?) \|", PAGE, re.MULTILINE)
    assert questions == [question for question, _ in rc.results.answers(synthetic_result())]
