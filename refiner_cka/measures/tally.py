"""Over-smoothing in a running analysis: hooks fill tallies of per-image values, each batch adds them to the sums.

A measure's sums are three: of the values, of their squares and of the images that have one. An image without one
(NaN) is left out of all three; one whose features are not finite (inf) makes the layer's sums NaN. The values of
the first few images are kept one by one, in places of their own: sums too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..images import Plan
from ..subjects.readout import exact_dtype
from ..subjects.sites import AttentionSite, TokenSite
from ..sums import GROUPS
from . import attention
from . import tokens as smoothing
from .scaling import sums_device

Sums = dict[str, torch.Tensor | float]

KEPT = "smoothing/kept_images"
"""The sum that counts the images whose values are kept one by one."""

KEPT_IMAGES = 128
"""Images of a run whose values are kept one by one, spread over the first batch of each group."""


class Tally:
    """Values of several measures at several rows for the images of one batch.

    Args:
        names: of the measures.
        rows: how many rows each has.
        plan: the batches of the whole run.
        device: where the values live.
    """

    def __init__(self, names: Sequence[str], rows: int, plan: Plan, device: torch.device) -> None:
        self._values = {name: _empty((rows, _largest(plan)), device) for name in names}
        self._plan = plan
        self._places = share(KEPT_IMAGES, 0, plan)
        self._images = 0

    @property
    def names(self) -> Sequence[str]:
        """The measures."""
        return tuple(self._values)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of what a batch adds to the sums."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, values in self._values.items():
            shapes |= _shapes(name, (len(values),))
            shapes[f"smoothing/{name}/kept"] = (len(values), self._places)
            shapes[KEPT] = ()
        return shapes

    def begin(self, images: int) -> None:
        """Forget the batch before and make room for one of `images`."""
        self._images = images
        for values in self._values.values():
            values.fill_(float("nan"))

    def put(self, name: str, rows: Sequence[int], values: torch.Tensor, first: int = 0) -> None:
        """Set a measure's values of the images from number `first` on, the same in every one of the rows."""
        for row in rows:
            self._values[name][row, first : first + len(values)] = values

    def sums(self, batch: int) -> Sums:
        """Return what the batch adds to the sums, float64."""
        kept = min(share(KEPT_IMAGES, batch, self._plan), self._images)
        sums: Sums = {}
        for name, buffer in self._values.items():
            values = _exact(buffer[:, : self._images])
            sums |= _moments(name, values)
            places = torch.zeros(
                len(values), self._places, dtype=torch.float64, device=values.device
            )
            places[:, :kept] = values[:, :kept].where(values[:, :kept].isfinite(), float("nan"))
            sums[f"smoothing/{name}/kept"] = places
            sums[KEPT] = float(kept)
        return sums


class TokenTally:
    """Token measures of all layers of all models.

    Args:
        names: the measures.
        sites: of each row of the matrix how its layer's tokens are read, or `None`.
        plan: the batches of the whole run.
        device: where features live.
    """

    def __init__(
        self,
        names: Sequence[str],
        sites: Sequence[TokenSite | None],
        plan: Plan,
        device: torch.device,
    ) -> None:
        self._tally = Tally(names, len(sites), plan, device)
        self._sites = sites
        self._plan = plan
        self._expensive = 0
        self.shapes = self._tally.shapes()
        self.sums = self._tally.sums

    def begin(self, batch: int, images: int) -> None:
        """Make room for a batch."""
        count = sum(len(batch) for batch in self._plan.batches)
        self._expensive = share(smoothing.expensive_images(count), batch, self._plan)
        self._tally.begin(images)

    def put(self, rows: Sequence[int], chunks: Sequence[torch.Tensor]) -> None:
        """Measure one layer.

        Args:
            rows: its rows in the matrix, one for each readout.
            chunks: its output for the whole batch, in parts.
        """
        site = self._sites[rows[0]]
        if site is None:
            return
        tokens = smoothing.Tokens(
            [site.read(chunk) for chunk in chunks], site.grid, self._expensive
        )
        for name in self._tally.names:
            measure = smoothing.MEASURES[name]
            if measure.on_grid and site.grid is None:
                continue
            values = measure.function(tokens)
            self._tally.put(name, rows, _spoilt(values, tokens.finite))


class AttentionTally:
    """Attention measures of all models, and the similarity of maps between the blocks of each.

    Args:
        sites: where maps are read.
        plan: the batches of the whole run.
        device: where maps live.
    """

    def __init__(self, sites: Sequence[AttentionSite], plan: Plan, device: torch.device) -> None:
        names = tuple(attention.MEASURES) if sites else ()
        self._tally = Tally(names, len(sites), plan, device)
        self._sites = sites
        self._plan = plan
        self._distances = {
            (site.grid, site.patch): attention.distances(site.grid, site.patch, device)
            for site in sites
        }
        self._wanted = 0
        self._columns: dict[int, list[torch.Tensor]] = {}
        self._similar = _empty((len(sites), len(sites), attention.CHUNK_IMAGES), device)
        self.shapes = self._tally.shapes()
        if sites:
            self.shapes |= _shapes(attention.BLOCK_SIMILARITY.name, (len(sites), len(sites)))

    def begin(self, batch: int, images: int) -> None:
        """Make room for a batch."""
        wanted = share(attention.SIMILARITY_IMAGES, batch, self._plan)
        self._wanted = min(wanted, attention.CHUNK_IMAGES, images)
        self._tally.begin(images)
        self._similar.fill_(float("nan"))
        self._columns.clear()

    def put(self, number: int, output: torch.Tensor, first: int) -> None:
        """Measure one map.

        Args:
            number: of the site.
            output: the map of a chunk of the batch, `(images, heads, tokens, tokens)`.
            first: number of the chunk's first image in the batch.
        """
        site = self._sites[number]
        maps = attention.Maps(
            output, site.prefix, site.point.kind, self._distances[site.grid, site.patch]
        )
        for name in self._tally.names:
            values = attention.MEASURES[name].function(maps)
            self._tally.put(name, [number], _spoilt(values, maps.finite), first)
        if first < self._wanted:
            kept = self._columns.setdefault(number, [])
            if first == 0:
                kept.clear()  # The pass is repeated after memory ran out.
            kept.append(attention.block_columns(maps, self._wanted - first))

    def compare(self, subject: int) -> None:
        """Compare the maps of one model's blocks at the end of its forward pass, and let them go."""
        for kind in ("softmax", "refined"):
            numbers = [
                number
                for number, site in enumerate(self._sites)
                if number in self._columns and (site.subject, site.point.kind) == (subject, kind)
            ]
            if not numbers:
                continue
            columns = [torch.cat(self._columns.pop(number)) for number in numbers]
            if len({block.shape for block in columns}) > 1:
                continue  # Maps of blocks with other grids have no columns in common.
            similar = attention.block_similarity(columns).permute(1, 2, 0)
            # A model's sites of one kind follow one another.
            own = slice(numbers[0], numbers[-1] + 1)
            self._similar[own, own, : similar.shape[2]] = similar

    def sums(self, batch: int) -> Sums:
        """Return what the batch adds to the sums, float64."""
        sums = self._tally.sums(batch)
        if self._sites:
            sums |= _moments(attention.BLOCK_SIMILARITY.name, _exact(self._similar))
        return sums


def share(images: int, batch: int, plan: Plan) -> int:
    """Return how many of the first images of a batch are taken when a run takes `images` of its images.

    They are spread evenly over the first batch of each group.
    """
    over = min(GROUPS, len(plan.batches))
    if batch >= over:
        return 0
    return min(images // over + (batch < images % over), _largest(plan))


def _largest(plan: Plan) -> int:
    return max(len(batch) for batch in plan.batches)


def _empty(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=exact_dtype(device), device=device)


def _exact(values: torch.Tensor) -> torch.Tensor:
    """Return values in float64, on the CPU if the device has none."""
    return values.to(sums_device(values.device)).to(torch.float64)


def _spoilt(values: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Return values that are inf for images whose features are not finite, and NaN where undefined."""
    return values.where(values.isfinite(), float("nan")).where(finite, float("inf"))


def _shapes(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"smoothing/{name}/{part}": shape for part in ("total", "squares", "images")}


def _moments(name: str, values: torch.Tensor) -> Sums:
    """Return the three sums of values over the last axis."""
    # NaN has no part in nansum, inf makes it inf, and inf - inf is NaN.
    total = values.nansum(-1)
    spoilt = total - total
    return {
        f"smoothing/{name}/total": total + spoilt,
        f"smoothing/{name}/squares": values.square().nansum(-1) + spoilt,
        f"smoothing/{name}/images": (~values.isnan()).sum(-1).to(torch.float64),
    }
