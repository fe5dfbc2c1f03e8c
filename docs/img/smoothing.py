"""Draw docs/img/smoothing-*.png: for each over-smoothing measure one example of low and one of high smoothing.

    python docs/img/smoothing.py

The tokens have three numbers, shown as red, green and blue: equal colours are equal tokens. Four images of 6x6
tokens make a batch. The numbers under the pictures are computed by the library.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from refiner_cka.measures import attention, maps, smoothing  # noqa: E402
from refiner_cka.measures.tokens import Tokens  # noqa: E402

SIDE = 6
GRID = (SIDE, SIDE)
COUNT = SIDE * SIDE
RED, BLUE = torch.tensor([1.0, 0.2, 0.2]), torch.tensor([0.1, 0.3, 1.0])


def noise(seed=0, size=1.0):
    """Return tokens that have nothing to do with each other, `(4, tokens, 3)`."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(4, COUNT, 3, generator=generator)


def colours():
    """Return a colour of its own for each of the four images."""
    return torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0], [-1.0, 0.4, 0.4]])


def gradient():
    """Return tokens that change gradually from the left to the right and downwards."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij"
    )
    field = torch.stack([rows, columns, -rows * columns], 2).flatten(0, 1)
    return field.expand(4, -1, -1) * torch.tensor([1.0, -1.0, 0.7, -0.7]).view(4, 1, 1)


def outlier():
    """Return tokens among which one of each image is many times longer."""
    tokens = RED + noise(size=0.1)
    tokens[:, 14] = 8 * BLUE
    return tokens


EXAMPLES = {
    "patch_cosine": (noise(), RED + noise(size=0.15)),
    "patch_cosine_centred": (
        2 * RED + noise(),
        2 * RED + colours().unsqueeze(1) + noise(size=0.15),
    ),
    "patch_cosine_between": (colours().unsqueeze(1) + noise(size=0.15), RED + noise(size=0.15)),
    "rank_collapse": (noise(), RED + noise(size=0.15)),
    "frequency_ratio": (noise(), RED + noise(size=0.15)),
    "effective_rank": (noise(), RED * (1.2 + noise()[..., :1].tanh()) + noise(size=0.02)),
    "dirichlet_energy": (noise(), gradient()),
    "token_norm": (RED * 0.3 + noise(size=0.05), RED + noise(size=0.05)),
    "token_norm_ratio": (RED + noise(size=0.1), outlier()),
    "outlier_tokens": (RED + noise(size=0.1), outlier()),
    "massive_activation": (RED + noise(size=0.1), outlier()),
    "cls_patch_cosine": (noise(), RED + noise(size=0.15)),
    "within_image_variance": (noise(), colours().unsqueeze(1) + noise(size=0.15)),
}
"""Measure -> tokens with little smoothing, tokens with much; where neither is smoother: with a small value and a
large one."""

CLASS_TOKEN = RED.expand(4, -1)


def draw_tokens(name):
    """Draw the pair of a token measure."""
    measure = smoothing.MEASURES[name]
    figure = Figure(figsize=(3.6, 2.0), layout="constrained")
    scale = max(2.5, max(float(tokens.abs().quantile(0.98)) for tokens in EXAMPLES[name]))
    for ax, tokens, word in zip(
        figure.subplots(1, 2), EXAMPLES[name], words(measure.quantity.smoother), strict=True
    ):
        value = measure.of_batch(Tokens([tokens], GRID, 4, CLASS_TOKEN))
        images = (0.5 + tokens / scale).clamp(0, 1).view(4, SIDE, SIDE, 3).numpy()
        framed = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
        rows = [np.concatenate(list(framed[k : k + 2]), 1) for k in (0, 2)]
        ax.imshow(np.concatenate(rows, 0)[:-1, :-1], interpolation="nearest")
        finish(ax, word, f"{value:.2f}")
    save(figure, name)


def peaked(width, shift=0.0):
    """Return attention of each patch to those around a place `shift` from it, `(N, N)`, in patches."""
    places = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).float()
    offset = torch.tensor([0.0, shift])
    squared = (places.unsqueeze(1) + offset - places).square().sum(2)
    return (-squared / (2 * width**2)).softmax(1)


def drawn_to(patch, share):
    """Return attention of each patch to those around it and, with a share of it, to one patch, `(N, N)`."""
    return (1 - share) * peaked(1.0) + share * torch.eye(COUNT)[patch]


MAPS = {
    "attention_entropy": ([peaked(0.7)], [peaked(30.0)]),
    "attention_distance": ([peaked(0.7)], [peaked(30.0)]),
    "attention_head_similarity": ([peaked(0.8, -2), peaked(0.8, 2)], [peaked(0.8), peaked(0.9)]),
    "attention_block_similarity": ([peaked(0.7), peaked(3.0)], [peaked(1.5), peaked(1.8)]),
    "attention_row_sum": ([0.4 * peaked(1.0)], [1.2 * peaked(1.0)]),
    "attention_negative": ([peaked(1.0)], [peaked(1.0) - 0.7 * peaked(1.0, 2)]),
    "attention_sink": ([peaked(1.0)], [drawn_to(8, 0.3)]),
}
"""Measure -> heads of a map (for similarity between blocks: maps of two blocks) with little smoothing, and with
much; of the last three: with a small value and a large one."""


def value(name, heads, table):
    """Return what a measure says of one image's maps."""
    if name == maps.BLOCK_SIMILARITY.name:
        blocks = [maps.Maps(head[None, None], 0, "softmax", table) for head in heads]
        columns = [maps.block_columns(block, 1) for block in blocks]
        return float(maps.block_similarity(columns)[0, 0, 1])
    both = maps.Maps(torch.stack(heads).unsqueeze(0), 0, "refined", table)
    return float(attention.MEASURES[name].function(both)[0])


def draw_maps(name):
    """Draw the pair of an attention measure: where the marked patch attends to, in each head."""
    smooths = name == maps.BLOCK_SIMILARITY.name or attention.MEASURES[name].quantity.smoother
    table = maps.distances(GRID, (16.0, 16.0), torch.device("cpu"))
    figure = Figure(figsize=(3.6, 2.0), layout="constrained")
    largest = max(float(head.max()) for heads in MAPS[name] for head in heads)
    for ax, heads, word in zip(figure.subplots(1, 2), MAPS[name], words(smooths), strict=True):
        seen = 14 if len(heads) == 2 else 21
        rows = [head[seen].view(SIDE, SIDE).numpy() for head in heads]
        if smooths:
            rows = [row / row.max() * (1 if row.max() > 2 / COUNT else 0.5) for row in rows]
        else:
            rows = [row / largest for row in rows]
        framed = np.concatenate(
            [np.pad(row, ((0, 0), (0, 1)), constant_values=np.nan) for row in rows], 1
        )
        low = -1 if name == "attention_negative" else 0
        colours = mpl.colormaps["RdBu_r" if low else "magma"]
        ax.imshow(framed[:, :-1], vmin=low, vmax=1, cmap=colours)
        for number in range(len(heads)):
            ax.plot(
                seen % SIDE + number * (SIDE + 1),
                seen // SIDE,
                "o",
                color="white",
                mec="black",
                ms=4,
            )
        finish(ax, word, f"{value(name, heads, table):.2f}")
    save(figure, name)


def words(smooths):
    """Return what to call the first and the second of a pair."""
    return ("less smooth", "smoother") if smooths else ("small", "large")


def finish(ax, word, value):
    """Write what a picture is and what the measure says of it."""
    ax.set_title(f"{word}: {value}", fontsize=9)
    ax.set_axis_off()


def save(figure, name):
    """Write one figure."""
    figure.savefig(
        HERE / f"smoothing-{name.replace('_', '-')}.png", dpi=110, metadata={"Software": None}
    )


def main():
    """Draw everything."""
    for name in EXAMPLES:
        draw_tokens(name)
    for name in MAPS:
        draw_maps(name)


if __name__ == "__main__":
    main()
