"""The result of an analysis: every question that one asks of its sums.

A result holds sums, and everything else is computed from them when asked. Results of disjoint batches of the
same analysis therefore merge by addition, and half a result is a result. No torch here: a saved result opens
in a second anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResultError
from ..sums import Array
from . import hdf5, tidy, trainings
from .markup import page
from .measured import Measured
from .summary import summarize

if TYPE_CHECKING:
    import pandas


class Result(Measured):
    """Everything measured in one analysis, or in part of one. Its attributes are those of `Contents`."""

    def __repr__(self) -> str:
        """Name what it holds; the sums themselves would fill pages."""
        return (
            f"<Result: {', '.join(self.models)}; {len(self.layers)} layers, {self.images} images, "
            f"{len(self.batches)} of {self.total_batches} batches>"
        )

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result from an HDF5 file; nothing but numbers, strings and JSON is taken from it.

        Raises:
            ResultFileError: no such file; not a result; of a newer version; damaged.
        """
        return hdf5.load(path, cls)

    def save(self, path: str | Path) -> None:
        """Write the result to an HDF5 file, whole or not at all.

        Raises:
            ResultFileError: the file cannot be written.
        """
        hdf5.save(self, self.derived(), path)

    def derived(self) -> dict[str, Array]:
        """Return what follows from the sums by its path in the file, for readers that do not compute."""
        derived: dict[str, Array] = {}
        for quantity in self.quantities:
            if quantity.estimator == "share":
                continue
            ask = self.similarity if quantity.estimator == "cosine" else self.smoothing
            estimate = ask(quantity.name)
            values, errors = hdf5.derived_paths(quantity)
            derived |= {values: estimate.values, errors: estimate.se}
        return derived | self._of_groups()

    def to_dataframe(self) -> pandas.DataFrame:
        """Return every number along depth as a pandas table: the columns and rows of the `.csv` of `export`.

        Raises:
            ResultError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ResultError(
                "a data frame needs pandas, which is not installed: pip install pandas, or export to a .csv file"
            ) from error
        return pandas.DataFrame(list(tidy.rows(self)), columns=list(tidy.COLUMNS))

    def _repr_html_(self) -> str:
        """Return the tables and sentences of the summary, as a notebook shows them."""
        summary = summarize(self)
        return page(summary.tables, summary.sentences)

    def _of_groups(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for group, (model, *_) in self.groups.items():
            for tokens in dict.fromkeys(at.tokens for at in self.layers if at.model == model):
                raw = self.curve(group, normalize="none", tokens=tokens)
                place = f"groups/{group}/{tokens}"
                found[f"{place}/depth"] = raw.depth
                found |= trainings.named(f"{place}/cka_last", raw)
                found |= trainings.named(f"{place}/s", self.curve(group, tokens=tokens))
                found |= trainings.named(f"{place}/ceiling", self.ceiling(group, tokens=tokens))
            for measure in self.measures:
                quantity = self.quantity(measure)
                for kind in dict.fromkeys(
                    at.tokens for at in self.axes.get(quantity.axes[0], ()) if at.model == model
                ):
                    means_of = self.smoothing(measure, group, tokens=kind, maps=kind)
                    place = f"groups/{group}/{kind}"
                    found.setdefault(f"{place}/depth", means_of.depth)
                    found |= trainings.named(f"{place}/{quantity.path}", means_of)
        return found

    def other_pixels(self, other: Result) -> str:
        """Say which batch that both hold was made of other pixels, inputs or labels; nothing if none was.

        Args:
            other: a result of the same analysis.
        """
        both, here, there = np.intersect1d(self.batches, other.batches, return_indices=True)
        differ = (self.batch_digests[here] != other.batch_digests[there]).any(2)
        if not differ.any():
            return ""
        place, model = np.argwhere(differ)[0]
        return f"batch {both[place]} of {self.models[model]} is of other pixels"
