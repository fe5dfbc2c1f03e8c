"""Draw docs/img/refiner-attention.png: attention maps of a Refiner before and after refinement.

    python docs/img/refiner_attention.py

Trains a small Refiner on scikit-learn's digits (under a minute on one core), records the maps of
one held-out digit and draws them. The seed is fixed: the same versions draw the same figure.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.colors import Normalize, TwoSlopeNorm
from sklearn.datasets import load_digits
from torch import Tensor

from refiner_cka.refiner import Refiner, dense_supervision_loss, record_attention

TARGET = Path(__file__).with_name("refiner-attention.png")
LAYER = "blocks.3.attn"
EPOCHS, BATCH = 4, 50
INK, MUTED = "#222222", "#777777"


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then held-out ones; images (n, 1, 16, 16) from -1 to 1."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    images = F.interpolate(images, scale_factor=2, mode="bilinear")
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images))
    train, held_out = order[:1400], order[1400:]
    return images[train], labels[train], images[held_out], labels[held_out]


def train(model: Refiner, images: Tensor, labels: Tensor) -> None:
    """Train for a few epochs."""
    steps = EPOCHS * len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = dense_supervision_loss(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def similarity(maps: Tensor) -> float:
    """Mean cosine between the maps of different heads, each map less its mean: (H, N, N) -> -1..1."""
    flat = maps.flatten(1)
    unit = F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)
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
    axes[0, 0].imshow(image, cmap="gray_r")
    axes[0, 0].set_title("held-out digit", fontsize=10, color=INK)
    for axis in axes[1, 1:]:
        axis.set_xlabel("key token", fontsize=8, color=MUTED)
    figure.suptitle(
        f"Attention maps of {LAYER} in a small Refiner ({accuracy:.0%} on held-out digits)",
        fontsize=11,
        color=INK,
    )
    figure.savefig(TARGET, dpi=150, metadata={"Software": None})


def main() -> None:
    """Train, record, draw."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels, held_out, truth = digits()
    model = Refiner(
        img_size=16,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=48,
        depth=4,
        num_heads=4,
        dense_supervision=True,
    )
    train(model, images, labels)
    with torch.no_grad():
        accuracy = float((model(held_out).argmax(1) == truth).float().mean())
        with record_attention(model) as maps:
            model(held_out[:1])
    received, refined = maps["blocks.2.attn"].passed, maps[LAYER].refined
    assert received is not None
    assert refined is not None
    draw(held_out[0, 0], received[0], refined[0], accuracy)
    print(f"accuracy {accuracy:.3f}; wrote {TARGET}")


if __name__ == "__main__":
    main()
