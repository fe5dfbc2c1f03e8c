"""Every table of `make simulate` is made."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.simulation import null
from tests.simulation.__main__ import TABLES


@pytest.mark.parametrize("title", TABLES)
def test_it_has_a_row_for_each_cell(title, monkeypatch):
    monkeypatch.setattr(null, "PERMUTATIONS", 100)
    with ThreadPoolExecutor(1) as executor:
        lines = TABLES[title](executor, 2, (64,)).splitlines()
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1
