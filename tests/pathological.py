"""Small models, each with one habit that has broken CKA code before."""

import contextlib

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
        # The standard deviation of x is about 0.33. A measured one would make images depend on one another.
        x = self.shifted(x + self.offset * 0.33)
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
        self.overflow(torch.where(x > 0, x / 0, x))
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


class KeepsItsInput(nn.Module):
    """Keeps features on itself from one layer to a later one: chunks that take turns would swap theirs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, x):
        self.kept = self.a(x.flatten(1))
        return self.c(self.b(self.kept).tanh() + self.kept)


class Surrounded(nn.Module):
    """Enters a context around a layer: chunks that take turns leave such contexts in another order.

    Args:
        context: makes the context.
    """

    def __init__(self, context):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.context = context

    def forward(self, x):
        x = self.a(x.flatten(1)).tanh()
        with self.context():
            x = self.b(x)
            x = x + torch.rand_like(x) if self.context is own_seed else x
        return self.c(x.float())


@contextlib.contextmanager
def own_seed():
    """Random numbers that are the same in each forward pass."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


class RandomInEvaluation(nn.Module):
    """Masks at random in evaluation too, as masked autoencoders do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, x):
        return self.b(torch.nn.functional.dropout(self.a(x.flatten(1)), 0.5, training=True))


class WritesInPlace(nn.Module):
    """Leaves inference mode and writes to what was made before: tensors made in inference mode forbid it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, x):
        x = self.a(x.flatten(1))
        with torch.inference_mode(False):
            x.mul_(2.0)
            return self.b(x)


class Skips(nn.Module):
    """Skips a layer where the first image is bright: its Gram matrix would be that of the batch before."""

    def __init__(self, times=0):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.times = times

    def forward(self, x):
        x = self.a(x.flatten(1))
        for _ in range(self.times if bool((x > 100).any()) else 1):
            x = self.b(x)
        return self.c(x)


class Stage(nn.Module):
    """A stage of one block returns its block's very tensor; so does a module that only passes on."""

    def __init__(self):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Linear(48, 48), nn.Tanh())
        self.stage2 = nn.Sequential(nn.Linear(48, 48))

    def forward(self, x):
        return self.stage2(self.stage1(x.flatten(1)))


class KeepsByNumber(nn.Module):
    """Reuses memory for features by the number of images: only passes of one size share it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.store = {}

    def forward(self, x):
        x = self.a(x.flatten(1))
        kept = self.store.setdefault(len(x), torch.empty_like(x))
        kept.copy_(x)
        return self.c(self.b(x).tanh() + kept)


class OffsetStatistics(nn.Module):
    """Statistics of the batch, under an offset that is much larger than how features differ.

    Args:
        offset: in standard deviations.
    """

    def __init__(self, offset):
        super().__init__()
        self.norm = nn.BatchNorm1d(48, track_running_stats=False)
        self.shifted, self.last = nn.Identity(), nn.Linear(48, 48)
        self.offset = offset

    def forward(self, x):
        return self.last(self.shifted(self.norm(x.flatten(1)) + self.offset) - self.offset)


class BiasFirst(nn.Module):
    """Returns a bias for each of eight heads before the features: eight images make heads look like images."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(48, 48)

        def forward(self, x):
            return torch.zeros(8, 3, 3), self.linear(x).tanh()

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            _, x = block(x)
        return torch.zeros(()), x
