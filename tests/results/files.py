"""Reading files that are refused, and editing them as a writer would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest

from refiner_cka.errors import ResultFileError
from refiner_cka.results import load
from refiner_cka.results.store import Store


def refusal(path: Path) -> str:
    """Return in what words a file is refused."""
    with pytest.raises(ResultFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """Open a file to change it; its digest is made anew."""
    with h5py.File(path, "r+") as file:
        yield file
        file.attrs["digest"] = Store(file).digest()
