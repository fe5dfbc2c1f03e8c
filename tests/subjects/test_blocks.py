"""What the rule for blocks makes of small networks; the families are in `test_families.py`."""

from itertools import pairwise

import pytest
from torch import nn

from refiner_cka.subjects.blocks import find_blocks


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))


class Last(Block):
    """A block of its own class."""


class Reduction(Block):
    """Larger than a single layer, and between stages."""


class Layer(nn.Module):
    """A convolution with its norm."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out)


class Stage(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.downsample = Layer(2, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))


class Wrapper(nn.Module):
    """Nothing but a chain."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.layer = nn.ModuleList(parts)


class Branches(nn.Module):
    """Two chains side by side, as many times as it stands in the network."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(Block(4), Block(4)) for _ in range(2))


class Tree(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.tree1, self.tree2 = (Tree(depth - 1) if depth else Block() for _ in range(2))


class Attributes(nn.Module):
    """Blocks that are attributes, with a stem before, a reduction between and a head in training after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Layer(3, 4), Layer(4, 4)
        self.mixed1, self.mixed2 = Block(), Block()
        self.reduction = Reduction()
        self.mixed3 = Block()
        self.aux1, self.aux2 = Last(), Last()


class Beside(nn.Module):
    """A last block that stands beside the chain."""

    def __init__(self) -> None:
        super().__init__()
        self.repeat = nn.Sequential(Block(), Block())
        self.block8 = Block()
        self.conv = Layer(4, 4)


class Grouped(nn.Module):
    """Groups its parameters as timm's models do; by structure alone its head would count."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(Block(), Tree(0))
        self.incre = nn.ModuleList(Block(16) for _ in range(4))

    def group_matcher(self, coarse=False):
        return {"stem": "^stem", "block_types": [(r"^trunk\.(\d+)", None), (r"^norm", (9,))]}


def chain(*parts: nn.Module) -> nn.Module:
    return nn.ModuleDict({"features": nn.Sequential(*parts)})


def convolutions(*widths: int) -> nn.Sequential:
    pairs = pairwise(widths)
    return nn.Sequential(*(part for pair in pairs for part in (nn.Conv2d(*pair, 1), nn.ReLU())))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # Single layers before and after.
        (chain(Layer(3, 4), Block(), Block(), Layer(4, 9)), "features.1 features.2"),
        # One that repeats as it is adds to its input.
        (
            chain(Layer(3, 4), Layer(4, 4), Layer(4, 4), Block(), Block()),
            "features.1 features.2 features.3 features.4",
        ),
        # A class of its own is a transition before and between others, and a block at the end.
        (
            chain(Reduction(), Block(), Reduction(), Block(), Last()),
            "features.0 features.1 features.2 features.3 features.4",
        ),
        (
            chain(Block(), Block(), Reduction(), Block(), Last()),
            "features.0 features.1 features.3 features.4",
        ),
        # Containers of blocks outweigh a repeated class between them, as in torchvision's Swin.
        (
            chain(
                nn.Sequential(Block(), Block()), Layer(4, 9), nn.Sequential(Block(9)), Layer(9, 9)
            ),
            "features.0.0 features.0.1 features.2.0",
        ),
        # Stages that differ in width; of a chain and nothing else; with a downsampling in the container.
        (chain(Stage(4, 1), Stage(8, 2)), "features.0.blocks.0 features.1.blocks.0 features.1.blocks.1"),
        (
            chain(Wrapper(Block()), Wrapper(Block(8), Block(8))),
            "features.0.layer.0 features.1.layer.0 features.1.layer.1",
        ),
        (
            chain(
                nn.Sequential(Layer(3, 4), Block()), nn.Sequential(Layer(4, 8), Block(8), Block(8))
            ),
            "features.0.1 features.1.1 features.1.2",
        ),
        # Branches that repeat as they are; trees of blocks.
        (chain(Branches(), Branches()), "features.0 features.1"),
        (
            chain(Block(), Tree(0), Tree(1)),
            "features.0 features.1.tree1 features.1.tree2 "
            "features.2.tree1.tree1 features.2.tree1.tree2 features.2.tree2.tree1 features.2.tree2.tree2",
        ),
        (Attributes(), "mixed1 mixed2 mixed3"),
        (Beside(), "repeat.0 repeat.1 block8"),
        # The chain with most of the parameters, not the one nearest to the root.
        (
            nn.ModuleDict({"pre": nn.Sequential(Last(), Last()), "body": Beside()}),
            "body.repeat.0 body.repeat.1 body.block8",
        ),
        (Grouped(), "trunk.0 trunk.1.tree1 trunk.1.tree2"),
        # Nothing but single layers; a head of fully connected ones is none of them.
        (
            nn.ModuleDict({"features": convolutions(3, 4, 4, 4), "classifier": nn.Linear(4, 2)}),
            "features.0 features.2 features.4",
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ""),
    ],
)  # fmt: skip
def test_blocks(network, expected):
    assert find_blocks(network) == tuple(expected.split())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)


class FeedForward(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))


@pytest.mark.parametrize(
    ("pair", "names"),
    [
        (lambda: nn.ModuleList([Attention(), FeedForward()]), ("0", "1")),
        (lambda: nn.ModuleDict({"attn": Attention(), "ff": FeedForward()}), ("attn", "ff")),
    ],
)
def test_lists_of_modules_are_no_blocks_themselves(pair, names):
    """Blocks may be pairs in lists, which are never called: what is in them is."""
    expected = [f"layers.{k}.{name}" for k in range(3) for name in names]
    network = nn.ModuleDict({"layers": nn.ModuleList(pair() for _ in range(3))})
    assert list(find_blocks(network)) == expected
