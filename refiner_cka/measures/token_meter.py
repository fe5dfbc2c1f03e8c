"""The meter that shows the tokens of each layer to the measures of over-smoothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..errors import LayerError
from ..images import Batch
from ..subjects.layouts import NoTokens
from ..subjects.locality import Reading
from ..subjects.model import Model, lines_left_out
from ..subjects.readout import patches_of, tokens_of
from .meter import Meter, Reads, Setting, Site
from .tally import Measure, Needs, Tally, marked, share
from .tokens import Tokens, has_tokens


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
        self.reads: Reads = "grid" if self._measures_need("grid") else "tokens"
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
        read: dict[int, Reading] = {}
        for model in models:
            readings, said = self._readings(model)
            lines += said
            for path, reading in readings.items():
                rows = [row.position for row in model.rows_by_layer()[path]]
                read |= dict.fromkeys(rows, reading)
                see = functools.partial(self._see, rows, reading)
                found.append(Site(model, path, see, model.places[path]))
        self.quantities = tuple(
            replace(
                measure.quantity,
                absent=tuple(
                    row
                    for row in range(self._layers)
                    if row not in read or not _has(read[row], measure.needs)
                ),
            )
            for measure in self._measures
        )
        return found, lines

    def _measures_need(self, needs: Needs) -> bool:
        return any(measure.needs == needs for measure in self._measures)

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
        # All that there is is no request for what a model cannot have.
        if self._measures_need("class_token") and self.setting.options.smoothing != "all":
            without = [path for path in found if not found[path].layout.has_class_token]
            classless = dict.fromkeys(without, "has no class token")
            lines += lines_left_out(model.name, classless, "the measures of the class token")
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
        tokens = Tokens(patches, reading.grid, self._expensive, _class_token(chunks, reading))
        for measure in self._measures:
            if _has(reading, measure.needs):
                finite = tokens.finite
                if measure.needs == "class_token":
                    assert tokens.class_token is not None
                    finite = finite & tokens.class_token.isfinite().all(1)
                values = marked(measure.function(tokens), finite)
                for row in rows:
                    self._tally.put(measure.quantity.name, row, values)

    def added(self) -> Mapping[str, torch.Tensor]:
        """Return the sums of each measure at each row."""
        return self._tally.added()


def _has(reading: Reading, needs: Needs) -> bool:
    """Whether a layer that is read so has what a measure needs."""
    if needs == "class_token":
        return reading.layout.has_class_token
    return needs == "tokens" or reading.grid is not None


def _class_token(chunks: Sequence[torch.Tensor], reading: Reading) -> torch.Tensor | None:
    """Return the class token of each image, `(images, dim)`, if the layer has one."""
    if not reading.layout.has_class_token:
        return None
    return torch.cat([tokens_of(chunk, reading.layout)[:, 0] for chunk in chunks])
