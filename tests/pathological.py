"""Small models, each with one habit that has broken CKA code before."""

import torch
from torch import nn


class InplaceReLU(nn.Module):
    """An in-place ReLU overwrites the output of the layer before: a stored reference sees the ReLU's."""

    def __init__(self):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(48, 64), nn.ReLU(inplace=True), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


class TupleOutput(nn.Module):
    """A block that returns (features, attention), as Refiner's and many others do."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(48, 48)

        def forward(self, x):
            return self.linear(x).tanh(), torch.zeros(1)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x, _ = block(x)
        return x


class Offset(nn.Module):
    """Features that share an offset of many standard deviations: uncentred float32 Grams are all rounding."""

    def __init__(self, offset):
        super().__init__()
        self.fc1, self.shifted, self.fc2 = nn.Linear(48, 512), nn.Identity(), nn.Linear(512, 256)
        self.deep = nn.Identity()
        self.offset = offset

    def forward(self, x):
        x = self.fc1(x.flatten(1)).relu()
        x = self.shifted(x + self.offset * x.std())
        return self.deep(self.fc2(x))


class ConstantLayer(nn.Module):
    """A layer whose output is the same for every image has no CKA."""

    def __init__(self):
        super().__init__()
        self.fc1, self.dead, self.fc2 = nn.Linear(48, 32), nn.Linear(48, 32), nn.Linear(32, 8)
        nn.init.zeros_(self.dead.weight)

    def forward(self, x):
        x = x.flatten(1)
        return self.fc2(self.fc1(x).relu() + self.dead(x))


class NonFinite(nn.Module):
    """A layer that overflows for some images."""

    def __init__(self):
        super().__init__()
        self.fc1, self.overflow, self.fc2 = nn.Linear(48, 32), nn.Identity(), nn.Linear(32, 8)

    def forward(self, x):
        x = self.fc1(x.flatten(1))
        self.overflow(torch.where(x > x.mean(), x / 0, x))
        return self.fc2(x)


class CalledTwiceAndNever(nn.Module):
    """Weight sharing calls a layer several times; dead code never."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.never = (
            nn.Linear(48, 48),
            nn.Linear(48, 48),
            nn.Linear(48, 48),
        )
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        return self.last(self.shared(self.shared(self.first(x.flatten(1)))))


class TrainingMode(nn.Module):
    """Batch normalisation and dropout change what they compute, and themselves, in training mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(48), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(48, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc2(self.drop(self.fc1(self.norm(x.flatten(1)))).relu())
