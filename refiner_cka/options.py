"""The options of a run, declared and explained once.

The keyword arguments of the Python functions, the command line and the record in the result follow from `Options`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import DataError

MOST = 2**63 - 1
"""The largest number an option takes: results and their readers hold numbers of 64 bits."""

Precision = Literal["fp32", "bf16", "fp16"]
"""In what the forward pass computes."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class About:
    """What an option is, in a line, and the least number it takes; the largest is `MOST`."""

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
    fast_pixels: bool = _option(
        False,
        "Decode large JPEG files smaller and resize by a faster way: not timm's pixels to the bit.",
    )
    workers: int | None = _option(None, "Processes that load images; 0 loads in this one.", 0)
    seed: int = _option(0, "Of the order of the images and of untrained weights.", 0)
    shard: tuple[int, int] = _option(
        (1, 1), "(I, N) measures part I of N; merging adds the parts.", 1
    )
    command: str | None = _option(None, "Recorded with the result.")

    def __post_init__(self) -> None:
        """Refuse a value that cannot work before it fails in the middle of something else.

        Raises:
            TypeError: it is of another type.
            DataError: a number that is too small or too large, or a part that the run does not have.
        """
        for name, kind in get_type_hints(Options).items():
            # Which precisions there are is said where they are used.
            if kind is not Precision and not _is(getattr(self, name), kind):
                wanted = kind.__name__ if isinstance(kind, type) else kind
                raise TypeError(f"{name} is {getattr(self, name)!r}; it takes {wanted}")
        for name, about in self.about().items():
            _check_range(name, getattr(self, name), about.least)
        part, parts = self.shard
        if part > parts:
            raise DataError(
                f"--shard {part}/{parts}: the first number must be from 1 to the second"
            )

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


def _check_range(name: str, value: Any, least: int | None) -> None:
    """Refuse a number, or one of several, that is smaller than the least or larger than `MOST`."""
    numbers = value if isinstance(value, tuple | list) else [value]
    for number in numbers if least is not None else []:
        if number is not None and not least <= number <= MOST:
            bound = f"at least {least}" if number < least else f"at most {MOST}"
            raise DataError(f"--{name.replace('_', '-')} {number}: it takes {bound}")


Options.__doc__ = f"{Options.__doc__}\n\nAttributes:" + "".join(
    f"\n    {name}: {found.text}" for name, found in Options.about().items()
)
