"""The tokens of a layer: what the measures of over-smoothing need of them, and the meter that shows them to these.

Rules for all measures: tokens are read in float32; an image for which a measure is undefined (say, all its tokens
are 0) is NaN and left out of the mean; a token of length 0 has no direction, and no part in a cosine.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import LayerError
from ..images import Batch
from ..subjects.layouts import NoTokens
from ..subjects.locality import Reading
from ..subjects.model import Model, lines_left_out
from ..subjects.readout import Grid, exact_dtype, patches_of
from .meter import Meter, Reads, Setting, Site
from .scaling import are_ordinary, block_bytes, common_scale, lengths, median_of_three
from .tally import Measure, Tally, marked, share


class Tokens:
    """The tokens of one layer for a whole CKA batch, and what several measures need of them.

    All but `first` and `norms` see tokens divided by `scale`, one power of two for the batch: they are measured
    alike at any size. A token shorter than 2^-126 of the layer's largest number counts as 0.

    Args:
        chunks: in parts `(images, tokens, dim)` of any floating type.
        grid: rows and columns of the patches, the last `rows x columns` tokens; `None` if unknown.
        expensive: how many of the first images the expensive measures take.
    """

    def __init__(
        self, chunks: Sequence[torch.Tensor], grid: Grid | None = None, expensive: int = 0
    ) -> None:
        self._chunks = chunks
        self.grid = grid
        self.count = chunks[0].shape[1]
        self.expensive = min(expensive, sum(map(len, chunks)))

    def first(self, images: int) -> torch.Tensor:
        """Return the tokens of the first images as they are, float64 (on the CPU if the device has none)."""
        rows = itertools.chain.from_iterable(chunk.unbind() for chunk in self._chunks)
        tokens = torch.stack(list(itertools.islice(rows, images)))
        return (tokens.cpu() if tokens.device.type == "mps" else tokens).to(torch.float64)

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return `function` of float32 blocks of images, joined along the images."""
        return torch.cat([function(block) for block in self._blocks(self.scale)])

    @property
    def scale(self) -> torch.Tensor | None:
        """What tokens are divided by; `None` for 1."""
        return self._look.scale

    @property
    def lengths(self) -> torch.Tensor:
        """The length of every token divided by `scale`, `(images, tokens)`."""
        return self._look.lengths

    @property
    def norms(self) -> torch.Tensor:
        """The length of every token, `(images, tokens)`, float64 where the device has it.

        The largest float32 tokens have lengths beyond float32.
        """
        exact = self.lengths.to(exact_dtype(self.lengths.device))
        return exact if self.scale is None else exact * self.scale

    @property
    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each image the sum of its unit tokens `(images, dim)`, and how many tokens have a direction."""
        return self._reduced[0], self._reduced[1]

    @property
    def centred_directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of tokens from which the mean token of the batch is taken away."""
        return self._reduced[2], self._reduced[3]

    @functools.cached_property
    def finite(self) -> torch.Tensor:
        """Whether all tokens of an image are finite, `(images,)`."""
        return self.lengths.isfinite().all(1)

    @functools.cached_property
    def _look(self) -> _Look:
        """What a first visit to the tokens tells. On a CPU it also tells whether they need scaling at all."""
        if self._chunks[0].device.type == "cpu":
            found = self._look_at(None)
            if are_ordinary(found.lengths):
                return found
        return self._look_at(common_scale(self._chunks))

    def _look_at(self, scale: torch.Tensor | None) -> _Look:
        last = self._chunks[-1]
        token = median_of_three(
            self._chunks[0][0, 0], last[len(last) // 2, self.count // 2], last[-1, -1]
        )
        reference = _divided(token, scale)
        parts = [(lengths(block), (block - reference).mean(1)) for block in self._blocks(scale)]
        sizes, offsets = (torch.cat(part) for part in zip(*parts, strict=True))
        return _Look(scale, sizes, reference, offsets.mean(0))

    @functools.cached_property
    def _varies(self) -> torch.Tensor:
        """Which features differ at all between the tokens of the batch, `(dim,)`."""
        reference = self._look.reference
        return self.each(lambda block: (block != reference).any(1)).any(0)

    @functools.cached_property
    def _reduced(self) -> list[torch.Tensor]:
        """What the cosines read, from one visit to each block while it is in cache."""
        look, parts, first = self._look, [], 0
        for block in self._blocks(look.scale):
            sizes = look.lengths[first : first + len(block)]
            first += len(block)
            centred = (block - look.reference).sub_(look.offset)
            remaining = lengths(centred)
            counted = sizes > torch.finfo(torch.float32).tiny
            around = self._has_direction(block, sizes, remaining)
            parts.append(
                (*_unit_sum(block, sizes, counted), *_unit_sum(centred, remaining, around))
            )
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _has_direction(
        self, block: torch.Tensor, sizes: torch.Tensor, remaining: torch.Tensor
    ) -> torch.Tensor:
        """Whether more is left of a token than its own rounding when the mean is taken away.

        Only features that differ in the batch count in its size: one which all tokens share exactly says nothing
        about the rounding of the others.
        """
        eps = torch.finfo(self._chunks[0].dtype).eps
        if block.device.type == "cpu":
            # Rarely is anything near its rounding, even of the whole size.
            clear = remaining > 2.0 * eps * sizes
            if clear.all():
                return clear
        return remaining > 2.0 * eps * lengths(block.where(self._varies, 0.0))

    def _blocks(self, scale: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """Yield float32 blocks of images, divided by `scale`."""
        for chunk in self._chunks:
            images = block_bytes(chunk.device) // (4 * chunk[0].numel())
            for block in torch.split(chunk, max(1, images)):
                yield _divided(block, scale)


@dataclass(frozen=True, eq=False)
class _Look:
    """What the first visit to a batch's tokens tells; all but `scale` is of tokens divided by it.

    The mean token is a token and the mean of what differs from it, to be taken away one after the other. Their
    sum has a rounding error of the size of what all tokens share, which may be far more than what tells them
    apart.

    Attributes:
        scale: a power of two; `None` for 1.
        lengths: of every token, `(images, tokens)`.
        reference: a token, `(dim,)`.
        offset: the mean over all images of what differs from it, `(dim,)`.
    """

    scale: torch.Tensor | None
    lengths: torch.Tensor
    reference: torch.Tensor
    offset: torch.Tensor


class TokenMeter(Meter):
    """Measures of the patch tokens of every layer that has several.

    Args:
        setting: of the run.
        measures: what to measure.
        is_asked_for: whether it is said, too, where there are no tokens to measure.
        expensive: on how many images of the run the expensive measures are taken.
    """

    def __init__(
        self,
        setting: Setting,
        measures: Sequence[Measure],
        *,
        is_asked_for: bool,
        expensive: int,
    ) -> None:
        self.setting = setting
        self._measures = measures
        self._is_asked_for = is_asked_for
        self._expensive_images = expensive
        on_grid = any(measure.on_grid for measure in measures)
        self.reads: Reads = "grid" if on_grid else "tokens"
        self.identity = {
            "smoothing": {
                "measures": [measure.quantity.name for measure in measures],
                "effective_rank_images": expensive,
            }
        }

    def sites(self, models: Sequence[Model]) -> tuple[Sequence[Site], Sequence[str]]:
        """Look at every layer with several patches, the whole batch at once."""
        self._layers = sum(len(model.rows) for model in models)
        found: list[Site] = []
        lines: list[str] = []
        has_grid: dict[int, bool] = {}  # of rows with tokens
        for model in models:
            readings, said = self._readings(model)
            lines += said
            for path, reading in readings.items():
                rows = [row.position for row in model.rows_by_layer()[path]]
                has_grid |= dict.fromkeys(rows, reading.grid is not None)
                see = functools.partial(self._see, rows, reading)
                found.append(Site(model, path, see, model.places[path]))
        without = tuple(row for row in range(self._layers) if row not in has_grid)
        off_grid = tuple(row for row in range(self._layers) if not has_grid.get(row))
        self.quantities = tuple(
            replace(measure.quantity, absent=off_grid if measure.on_grid else without)
            for measure in self._measures
        )
        return found, lines

    def _readings(self, model: Model) -> tuple[dict[str, Reading], list[str]]:
        """Return how the tokens of a model's layers are read, and a line for layers left out.

        Raises:
            LayerError: a layer named by hand contradicts what the user says of the tokens.
        """
        layout = model.subject.layout
        is_stated = layout.stated is not None or layout.stated_prefix is not None
        found: dict[str, Reading] = {}
        wrong, alone, scattered = dict[str, str](), dict[str, str](), dict[str, str]()
        for path in model.rows_by_layer():
            reading, output = model.readings[path], model.outputs[path]
            if isinstance(reading, NoTokens):
                alone[path] = str(reading)
            elif isinstance(reading, LayerError):
                if is_stated and not model.subject.pattern:
                    raise LayerError(f"{model.name}: layer {path} {reading}")
                wrong[path] = str(reading)
            elif not has_tokens(output, reading):
                alone[path] = f"returns {tuple(output.shape)}, not several tokens"
            else:
                assert reading is not None
                found[path] = reading
                if reading.grid is None and self.reads == "grid":
                    scattered[path] = "has no patch grid, or none on which its tokens are in order"
        smoothing, grid = "the over-smoothing measures", "the measures on the grid"
        lines = lines_left_out(model.name, wrong, smoothing)
        if self._is_asked_for:
            lines += lines_left_out(model.name, alone, smoothing)
            lines += lines_left_out(model.name, scattered, grid)
        return found, lines

    def begin(self, batch: Batch) -> None:
        """Make room for the batch."""
        shapes = dict.fromkeys(self.quantities, (self._layers,))
        self._tally = Tally(shapes, batch.folds, self.setting.device)
        self._expensive = share(self._expensive_images, batch.index, self.setting.plan)

    def _see(
        self, rows: Sequence[int], reading: Reading, chunks: Sequence[torch.Tensor], _images: slice
    ) -> None:
        """Measure one layer; the measures do not depend on the readout of its rows."""
        patches = [patches_of(chunk, reading.layout) for chunk in chunks]
        tokens = Tokens(patches, reading.grid, self._expensive)
        for measure in self._measures:
            if reading.grid is not None or not measure.on_grid:
                values = marked(measure.function(tokens), tokens.finite)
                for row in rows:
                    self._tally.put(measure.quantity.name, row, values)

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return the sums of each measure at each row."""
        return self._tally.added()


def has_tokens(output: torch.Tensor, reading: Reading | None) -> bool:
    """Whether a layer has at least two patch tokens.

    Args:
        output: of the layer; only its shape matters.
        reading: how it is read; `None` if it is `(images, channels)`.
    """
    return reading is not None and patches_of(output, reading.layout).shape[1] > 1


def _divided(tokens: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return tokens over a power of two, float32."""
    tokens = tokens.float()
    return tokens if scale is None else tokens * scale.reciprocal()


def _unit_sum(
    block: torch.Tensor, sizes: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of an image's tokens over their sizes `(images, dim)`, and how many count `(images,)`."""
    weights = sizes.reciprocal().where(counted, 0.0)
    return (weights.unsqueeze(1) @ block).squeeze(1), (weights > 0).sum(1)
