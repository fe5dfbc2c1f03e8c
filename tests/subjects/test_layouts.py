"""How each layer's tokens are read: by its shape, the channels of its modules, and the places of its tokens."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.errors import LayerError
from refiner_cka.subjects.layouts import NoTokens, grid_of, prefix_of
from refiner_cka.subjects.locality import Reading
from refiner_cka.subjects.readout import ModelLayout, TokenLayout
from tests.subjects.tokens import (
    TOLERANCE,
    Views,
    images,
    outputs_of,
    readings,
    run,
    seeded,
    subject,
)


@pytest.mark.parametrize(
    ("format", "view"), [("nchw", lambda x: x), ("nhwc", lambda x: x.permute(0, 2, 3, 1))]
)
@pytest.mark.parametrize("part", [nn.Identity, lambda: nn.LayerNorm(8)])
def test_a_cube_is_read_by_its_places(format, view, part):
    """8 channels on a grid of 8 x 8: neither shape nor number of channels tells which axis is which."""
    found = readings(seeded(Views, view, part=part), ["norm"], 32, on_grid=False)
    assert found["norm"] == Reading(TokenLayout(format), None)


def test_a_cube_whose_positions_change_alike_is_refused_until_it_is_stated():
    def spread(x):
        return x.mean((1, 2, 3), keepdim=True).expand_as(x).clone()

    module = seeded(Views, spread)
    found = readings(module, ["norm"], 32)["norm"]
    assert isinstance(found, LayerError)
    assert "(3, 8, 8, 8), which may be nchw or nhwc: say which, layout=nchw or layout=nhwc" in str(
        found
    )
    stated = readings(module, ["norm"], 32, ModelLayout(stated="nhwc"))["norm"]
    assert stated.layout == TokenLayout("nhwc")


def test_heads_that_look_like_a_map_are_not_read():
    """Queries (images, heads, 16 tokens, 16 channels) have the shape of a map of 16 x 16."""

    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(16)

        def forward(self, x):
            x = self.embed(x).flatten(2).mT
            return self.norm(x.unflatten(2, (2, 16)).transpose(1, 2)).mean((1, 2))

    module = seeded(Queries)
    with pytest.warns(rc.AnalysisWarning, match=r"\(3, 2, 16, 16\), which is no map.*layout=nchw"):
        run(subject(module, ["norm"]), images(8, 3, 32, 32), batch_size=8)
    with pytest.raises(rc.LayerError, match=r"\(3, 2, 16, 16\), which is no map"):
        run(subject(module, ["norm"]), images(8, 3, 32, 32), tokens="mean", smoothing="none")


def test_the_mlp_of_a_convnext_has_channels_last():
    """The blocks have channels first; inside them the MLP does not."""
    module = seeded(timm.models.ConvNeXt, dims=(8, 16, 32, 64), depths=(1, 1, 1, 1), num_classes=4)
    paths = [f"stages.{stage}.blocks.0.mlp" for stage in range(4)]
    data = images(8, 3, 64, 64)
    result = run(
        subject(module, paths, size=64), data, tokens="mean", smoothing="none", batch_size=8
    )
    outputs = outputs_of(module, paths, data)
    features = [output.mean((1, 2)) for output in outputs.values()]
    expected = [[rc.cka(one.numpy(), two.numpy()) for two in features] for one in features]
    np.testing.assert_allclose(result.cka(), expected, atol=TOLERANCE)


def test_outputs_that_are_no_tokens():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 12, 8, 8)
            self.over_tokens, self.softmax = nn.Linear(16, 16), nn.Softmax(-1)

        def forward(self, x):
            x = self.embed(x).flatten(2)
            self.softmax(x.mT @ x).unsqueeze(1)
            return self.over_tokens(x).mean(2)

    found = readings(seeded(Mixed), ["over_tokens", "softmax"], 32, ModelLayout(patches=16))
    assert all(isinstance(each, NoTokens) for each in found.values())
    assert "(images, channels, tokens)" in str(found["over_tokens"])


def test_tokens_that_another_pass_would_shuffle_have_no_grid():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.view = nn.Conv2d(3, 8, 8, 8), nn.Identity()

        def forward(self, x):
            x = self.embed(x).flatten(2).mT
            order = torch.rand(x.shape[:2]).argsort(1).unsqueeze(2)
            return self.view(x.gather(1, order.expand_as(x))).mean(1)

    reading = readings(seeded(Shuffled), ["view"], 32)["view"]
    assert reading == Reading(TokenLayout("nlc"), None)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (196, (224, 224), (14, 14)),
        (729, (224, 224), (27, 27)),
        (197, (224, 224), None),
        (140, (224, 160), (14, 10)),
        (140, (230, 160), (14, 10)),
        (150, (230, 160), (15, 10)),
    ],
)
def test_the_grid_of_so_many_patches(count, size, expected):
    """Also of images that are not made of whole patches: without the rest, or with it padded."""
    assert grid_of(count, nn.Identity(), size) == expected


@pytest.mark.parametrize(
    ("count", "known", "expected"),
    [
        (17, ModelLayout(), 1),
        (21, ModelLayout(), 5),
        (20, ModelLayout(), 4),
        (16, ModelLayout(prefix=1), 0),
        (17, ModelLayout(prefix=1, patches=16), 1),
        (16, ModelLayout(prefix=1, patches=16), 0),
        (1, ModelLayout(prefix=1), 1),
        (1, ModelLayout(), 0),
        (15, ModelLayout(prefix=2), 2),
        (19, ModelLayout(stated_prefix=3), 3),
        (16, ModelLayout(stated_prefix=3), 0),
        (9, ModelLayout(prefix=5), 5),
        (256, ModelLayout(patches=196), "256 tokens, of which 196 cannot be the patches"),
        (9, ModelLayout(), "0 or 5 may be prefix tokens"),
        (14, ModelLayout(stated_prefix=0), "do without 5: give prefix_tokens=5"),
        (14, ModelLayout(prefix=1), "without 1 prefix tokens make no grid .* do without 5"),
        (19, ModelLayout(), "say how many there are, prefix_tokens=N"),
    ],
)
def test_how_many_tokens_of_a_sequence_are_no_patches(count, known, expected):
    if isinstance(expected, str):
        with pytest.raises(LayerError, match=expected):
            prefix_of(count, known, nn.Identity(), (32, 32))
    else:
        assert prefix_of(count, known, nn.Identity(), (32, 32)) == expected


class ClassTokenLater(nn.Module):
    """Appends its class token, or puts it in the middle: its first token is a patch."""

    def __init__(self, before):
        super().__init__()
        self.embed, self.before = nn.Conv2d(3, 24, 4, 4), before
        self.cls = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(24, 4, 48, batch_first=True) for _ in range(2)
        )

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        token = self.cls.expand(len(x), -1, -1)
        x = torch.cat([x[:, : self.before], token, x[:, self.before :]], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, self.before]


@pytest.mark.parametrize("before", [0, 32, 64])
def test_a_class_token_that_is_not_first_is_not_taken_for_one(before):
    """Its place would be taken by the first patch, and it would count as a patch."""
    data = images(8, 3, 32, 32)
    analysed = subject(seeded(lambda: ClassTokenLater(before)))
    if before == 0:
        result = run(analysed, data, batch_size=8)
        assert np.isfinite(result.smoothing("patch_cosine", "model").values).all()
        return
    with pytest.warns(rc.AnalysisWarning, match="the first answers to one part of the image"):
        result = run(analysed, data, batch_size=8)
    assert np.isnan(result.smoothing("patch_cosine", "model").values).all()
