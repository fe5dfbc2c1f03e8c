"""The options of a run, declared and explained once.

The keyword arguments of the Python functions, the command line and the record in the result follow from `Options`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class About:
    """What an option is, in a line, and the least number it takes."""

    text: str
    least: int | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an analysis is made: the keyword arguments of `analyze` and `prepare`."""

    layers: Annotated[str, About("block, attn, mlp, all, or a glob: 'blocks.*.norm1'.")] = "block"
    tokens: Annotated[
        str, About("all, patch, cls, mean; several with commas are read in one pass.")
    ] = "all"
    smoothing: Annotated[
        str | None,
        About("Over-smoothing measures of the tokens. Default: cosines, norms, effective rank."),
    ] = None
    attention: Annotated[bool, About("Measure attention maps too. It costs more.")] = False
    batch_size: Annotated[
        int, About("The CKA batch: part of the estimator, not of the speed.", least=4)
    ] = 64
    images: Annotated[int | None, About("How many images; all by default.", least=4)] = None
    image_size: Annotated[
        int | tuple[int, int] | None,
        About("Side of the input in pixels; the model's own by default.", least=1),
    ] = None
    device: Annotated[
        str | None, About("cpu, cuda, cuda:1, mps; the best there is by default.")
    ] = None
    precision: Annotated[
        Precision, About("Of the forward pass; CKA itself is taken in fp32 and fp64.")
    ] = "fp32"
    workers: Annotated[
        int | None, About("Processes that load images; 0 loads in this one.", least=0)
    ] = None
    seed: Annotated[int, About("Of the order of the images and of untrained weights.", least=0)] = 0
    shard: Annotated[
        tuple[int, int], About("(I, N) measures part I of N; merging adds the parts.")
    ] = (1, 1)
    command: Annotated[str | None, About("Recorded with the result.")] = None

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
        hints = get_type_hints(Options, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items()}

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


Options.__doc__ = (
    (Options.__doc__ or "")
    + "\n\nAttributes:"
    + "".join(f"\n    {name}: {found.text}" for name, found in Options.about().items())
)
