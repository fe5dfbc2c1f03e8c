"""A Refiner block and its MLP."""

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from .attention import MapAttention


class ScaledMlp(nn.Module):
    """An MLP with a learned scale for each output channel, small at first.

        mlp(x) = c * (W_2 GELU(W_1 x + b_1) + b_2),    c = 1e-5 before training

    Shapes: (batch, N, dim) -> (batch, N, dim); c: (dim,).

    Source: the Refiner reference model (arXiv 2106.03714); the scale is LayerScale
    (arXiv 2103.17239).
    """

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.scale_channel = nn.Parameter(torch.full((dim,), 1e-5))
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to every token."""
        x = self.drop1(self.act(self.fc1(x)))
        scaled: Tensor = self.drop2(self.fc2(x) * self.scale_channel)
        return scaled


class Block(nn.Module):
    """Attention and MLP, each a branch beside the residual stream.

        y = x + 2 attn(LN(x / 2), map before);    z = y + 2 mlp(LN(y / 2))

    Shapes: x (batch, N, dim), map before (batch, H, N, N) -> z (batch, N, dim), map passed on
    (batch, H, N, N).

    Source: the Refiner reference model (arXiv 2106.03714).
    """

    def __init__(
        self, attn: MapAttention, mlp_ratio: float, proj_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        dim = attn.proj.in_features
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ScaledMlp(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens and the map that goes on to the next block."""
        # Halving is not idle: LayerNorm's eps weighs four times as much as it would on x.
        branch, passed = self.attn(self.norm1(0.5 * x), before)
        x = torch.add(x, self.drop_path1(branch), alpha=2.0)
        branch = self.mlp(self.norm2(0.5 * x))
        return torch.add(x, self.drop_path2(branch), alpha=2.0), passed
