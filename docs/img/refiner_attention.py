"""Draw docs/img/refiner-attention.png: attention maps of a Refiner before and after refinement.

    python docs/img/refiner_attention.py

Records the maps of one held-out digit in the embedded `refiner_nano` and draws them.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import Normalize, TwoSlopeNorm
from torch import Tensor

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.refiner import record_attention
from refiner_cka.subjects import resolve

TARGET = Path(__file__).with_name("refiner-attention.png")
BEFORE, LAYER = "blocks.6.attn", "blocks.7.attn"
IMAGE = 5
INK, MUTED = "#222222", "#777777"


def similarity(maps: Tensor) -> float:
    """Mean cosine between the maps of different heads: (H, N, N) -> -1..1."""
    unit = F.normalize(maps.flatten(1), dim=1)
    cosines = unit @ unit.T
    heads = len(maps)
    return float((cosines.sum() - heads) / (heads * (heads - 1)))


def draw(image: Tensor, before: Tensor, after: Tensor, accuracy: float) -> None:
    """Two rows of maps (H, N, N): what the block receives, and what it makes of it."""
    heads = len(before)
    figure, axes = plt.subplots(
        2, heads + 1, figsize=(2.0 * (heads + 1), 4.6), layout="constrained"
    )
    for row, maps, name in ((axes[0], before, "before"), (axes[1], after, "after")):
        low, high = (float(maps.quantile(q)) for q in (0.002, 0.998))
        # Only refined maps have negative entries: there white is 0.
        norm = TwoSlopeNorm(0, low, high) if low < 0 else Normalize(low, high)
        for head, axis in enumerate(row[1:]):
            drawn = axis.imshow(
                maps[head], cmap="RdBu_r" if low < 0 else "Reds", norm=norm, interpolation="nearest"
            )
            axis.set(xticks=[], yticks=[])
            if name == "before":
                axis.set_title(f"head {head + 1}", fontsize=10, color=INK)
        row[1].set_ylabel(f"{name} refinement\nquery token", fontsize=9, color=INK)
        figure.colorbar(drawn, ax=row[-1], fraction=0.05).ax.tick_params(labelsize=7)
        row[0].axis("off")
    axes[1, 0].text(
        0.5,
        0.5,
        "mean cosine between\nthe maps of two heads\n\n"
        f"before: {similarity(before):.2f}\nafter: {similarity(after):.2f}",
        transform=axes[1, 0].transAxes,
        ha="center",
        va="center",
        fontsize=9,
        color=INK,
    )
    axes[0, 0].imshow(image, cmap="gray")
    axes[0, 0].set_title("held-out digit", fontsize=10, color=INK)
    for axis in axes[1, 1:]:
        axis.set_xlabel("key token", fontsize=8, color=MUTED)
    figure.suptitle(
        f"Attention maps of {LAYER} of refiner_nano ({accuracy:.0%} on held-out digits)",
        fontsize=11,
        color=INK,
    )
    figure.savefig(TARGET, dpi=150, metadata={"Software": None})


def main() -> None:
    """Record and draw."""
    (subject,) = resolve("refiner_nano")
    model, geometry = subject.module.eval(), subject.preprocessing
    picture = open_source("digits-test").read(IMAGE)
    with torch.no_grad(), record_attention(model) as maps:
        model(geometry.normalize(geometry.transform()(picture).unsqueeze(0)))
    received, refined = maps[BEFORE].passed, maps[LAYER].refined
    assert received is not None
    assert refined is not None
    accuracy = rc.accuracy(subject, "digits-test")
    draw(255 - torch.from_numpy(np.array(picture.convert("L"))), received[0], refined[0], accuracy)


if __name__ == "__main__":
    main()
