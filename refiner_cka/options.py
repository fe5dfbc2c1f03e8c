"""The options of a run, declared and explained once.

The keyword arguments of the Python functions, the command line and the record in the result follow from `Options`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Precision = Literal["fp32", "bf16", "fp16"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class About:
    """What an option is, in a line, and the least number it takes."""

    text: str
    least: int | None = None


def _option(default: _T, text: str, least: int | None = None) -> _T:
    return field(default=default, metadata={"about": About(text, least)})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an analysis is made: the keyword arguments of `analyze` and `prepare`."""

    layers: str = _option("block", "block, attn, mlp, all, or a glob: 'blocks.*.norm1'.")
    tokens: str = _option("all", "all, patch, cls, mean; several with commas are read in one pass.")
    index: str = _option(
        "cka",
        "Similarity indices, with commas: cka-cosine, cka-rbf, rsa, knn; cka is always measured.",
    )
    against: str | None = _option(
        None, "References to compare every layer with: labels, pixels, or both with a comma."
    )
    smoothing: str | None = _option(
        None, "Over-smoothing measures of the tokens. Default: cosines, norms, effective rank."
    )
    attention: bool = _option(False, "Measure attention maps too. It costs more.")
    batch_size: int = _option(64, "The CKA batch: part of the estimator, not of the speed.", 4)
    images: int | None = _option(None, "How many images; all by default.", 4)
    image_size: int | tuple[int, int] | None = _option(
        None, "Side of the input in pixels; the model's own by default.", 1
    )
    device: str | None = _option(None, "cpu, cuda, cuda:1, mps; the best there is by default.")
    precision: Precision = _option(  # noqa: RUF009  # a field
        "fp32", "Of the forward pass; CKA itself is taken in fp32 and fp64."
    )
    workers: int | None = _option(None, "Processes that load images; 0 loads in this one.", 0)
    seed: int = _option(0, "Of the order of the images and of untrained weights.", 0)
    shard: tuple[int, int] = _option((1, 1), "(I, N) measures part I of N; merging adds the parts.")
    command: str | None = _option(None, "Recorded with the result.")

    def __post_init__(self) -> None:
        """Refuse a value of another type before it fails in the middle of something else."""
        for name, kind in get_type_hints(Options).items():
            # Which precisions there are is said where they are used.
            if kind is not Precision and not _is(getattr(self, name), kind):
                wanted = kind.__name__ if isinstance(kind, type) else kind
                raise TypeError(f"{name} is {getattr(self, name)!r}; it takes {wanted}")

    @staticmethod
    def about() -> dict[str, About]:
        """Return what each option is."""
        return {each.name: each.metadata["about"] for each in fields(Options)}

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON types, for the record, but for those which a merge makes void."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in ("shard", "command")
        }


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of one of the types of an option; a list does for a tuple."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and (*map(type, value),) == get_args(kind)
    return type(value) is kind or any(_is(value, part) for part in get_args(kind))


Options.__doc__ = f"{Options.__doc__}\n\nAttributes:" + "".join(
    f"\n    {name}: {found.text}" for name, found in Options.about().items()
)
