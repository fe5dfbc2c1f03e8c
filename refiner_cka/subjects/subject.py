"""What is analysed: a model, the layers to read in it, and what it expects of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..errors import LayerError
from ..images.preprocessing import Preprocessing
from . import timm_attributes
from .layers import choose_layers
from .provenance import Source, origin_of
from .readout import FORMATS, Format, ModelLayout


@dataclass(frozen=True, eq=False)
class Subject:
    """One model of an analysis.

    Attributes:
        name: how results call it; unique in a run.
        module: the model, weights loaded; called with `(batch, channels, height, width)`.
        layers: dotted module paths (`blocks.3`, `layer2.0`) in the order of the forward pass.
        pattern: true if `layers` came from a pattern: one that is never called is then left out with a
            warning, where a layer named by hand is refused.
        layout: what is known of how tokens lie in the layers' outputs.
        preprocessing: what the model expects of an image; ImageNet's usual is assumed if it is not stated.
        classes: names of the classes the model predicts, in the order of its logits (ImageNet synsets), or
            `None` where they are not known.
        trained: false if the weights are random.
        group: the recipe of which it is one of several trainings; none if empty. It changes no number.
        origin: provenance for the result file, JSON types only: architecture, weights, SHA-256 of the
            loaded state, how many tensors were loaded, factory arguments; see `origin_of`.
    """

    name: str
    module: nn.Module = field(repr=False)
    layers: tuple[str, ...]
    pattern: bool = False
    layout: ModelLayout = field(default_factory=ModelLayout)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(assumed=True))
    classes: tuple[str, ...] | None = None
    trained: bool = True
    group: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        layers: Sequence[str] | str = "block",
        *,
        name: str | None = None,
        preprocessing: Preprocessing | None = None,
        layout: Format | None = None,
        prefix_tokens: int | None = None,
        classes: Sequence[str] | None = None,
        trained: bool = True,
        group: str = "",
    ) -> Subject:
        """Make a subject of any network.

        Args:
            module: called with `(batch, channels, height, width)`; its weights are taken as they are.
            layers: dotted module paths, or a pattern (`block`, `attn`, `mlp`, `all`, a glob).
            name: how results call it; the class's name if not given.
            preprocessing: what it expects of an image; timm's if it is a timm model, else ImageNet's usual, which
                is said when images are read.
            layout: how its layers' outputs lie: `nlc` (images, tokens, channels), `nchw` or `nhwc`; if not given,
                each layer's is found from its shape and parameters (see `layouts`).
            prefix_tokens: class, distillation and register tokens before the patch tokens, where a layer has
                them; if not given, what a timm model says, else what the shape does.
            classes: names of the classes it predicts, in the order of its logits.
            trained: false if its weights are random.
            group: name of the recipe of which it is one of several trainings, see docs/replicates.md.

        Raises:
            LayerError: a layer that the network does not have, a pattern that matches none, or no such layout.
        """
        chosen, is_pattern = choose_layers(module, layers)
        if preprocessing is None and timm_attributes.config(module):
            preprocessing = timm_attributes.preprocessing(module)
        preprocessing = preprocessing or Preprocessing(assumed=True)
        return cls(
            name=name or type(module).__name__,
            module=module,
            layers=chosen,
            pattern=is_pattern,
            layout=stated(timm_attributes.layout(module), layout, prefix_tokens),
            preprocessing=preprocessing,
            classes=None if classes is None else tuple(classes),
            trained=trained,
            group=group,
            origin=origin_of(
                module, Source(type(module).__qualname__), preprocessing.input_size[1:]
            ),
        )

    def assumption(self, input_shape: Sequence[int] | None) -> str | None:
        """Return a line that says which preprocessing is assumed; `None` if it is stated, or not applied.

        Floating inputs, which have an `input_shape`, are fed as they are.
        """
        assumed = self.preprocessing
        if not assumed.assumed or input_shape is not None:
            return None
        _, height, width = assumed.input_size
        return (
            f"{self.name}: preprocessing assumed: {height} x {width}, {assumed.interpolation}, crop "
            f"{assumed.crop_pct:g}, ImageNet's mean and standard deviation; state it by "
            "Subject.from_module(preprocessing=...), which a factory may return"
        )

    def class_map(
        self, classes: Sequence[str] | None, logits: int | None
    ) -> tuple[int, ...] | None:
        """Return the logit of each class of a data set (-1: none), or `None` where classes cannot be matched.

        By name where the model names a class for each of its `logits`; else, for a trained model with as many
        as the data has classes, in sorted order, as training on such folders numbers them.
        """
        if classes is None or logits is None:
            return None
        if self.classes is not None and len(self.classes) == logits:
            position = {name: index for index, name in enumerate(self.classes)}
            matched = tuple(position.get(name, -1) for name in classes)
            return matched if any(index >= 0 for index in matched) else None
        if self.classes is None and self.trained and len(classes) == logits:
            return tuple(range(logits))
        return None


def stated(known: ModelLayout, layout: Any, prefix_tokens: Any) -> ModelLayout:
    """Return what is known of a model's layout with what the user says of it, if anything.

    Raises:
        LayerError: no such layout, or no number of tokens.
    """
    if layout is not None and layout not in FORMATS:
        raise LayerError(f"layout={layout!r} is unknown; choose from {', '.join(FORMATS)}")
    if prefix_tokens is not None and (type(prefix_tokens) is not int or prefix_tokens < 0):
        raise LayerError(
            f"prefix_tokens={prefix_tokens!r} is no number of tokens; give 0, 1, 2, ..."
        )
    if layout is not None:
        known = replace(known, stated=layout)
    return known if prefix_tokens is None else replace(known, stated_prefix=prefix_tokens)
