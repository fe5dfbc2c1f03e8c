"""How each layer's tokens are read, against features whose order is known: timm's intermediates, and by hand.

Tolerances: a cosine of float32 tokens carries a few eps (1.2e-7) for each of up to 3,136 tokens' sums, whose
errors add up as a random walk: 1e-5. A Dirichlet energy is a ratio of sums of so many squares: as much,
relatively.
"""

from inspect import signature

import numpy as np
import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

import refiner_cka as rc
from cli.app import app
from refiner_cka.errors import LayerError
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.subjects import find_layers
from refiner_cka.subjects.hooks import first_outputs
from refiner_cka.subjects.layouts import NoTokens, grid_of, readings_of
from refiner_cka.subjects.locality import Reading
from refiner_cka.subjects.readout import ModelLayout, TokenLayout, patches_of, tensor_of
from refiner_cka.subjects.timm_attributes import layout as layout_of

TOLERANCE = 1e-5


def seeded(factory, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory(*args, **kwargs).eval()


def images(count, *shape, seed=1):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def cosine(tokens):
    """Mean cosine of pairs of different tokens, from all pairs, `(images,)`."""
    x = tokens.double()
    x = x / x.norm(dim=2, keepdim=True)
    pairs = x @ x.mT
    count = x.shape[1]
    return (pairs.sum((1, 2)) - count) / (count * (count - 1))


def energy(grid):
    """Dirichlet energy of maps `(images, channels, rows, columns)`."""
    x = grid.double()
    edges = x.diff(dim=2).square().sum((1, 2, 3)) + x.diff(dim=3).square().sum((1, 2, 3))
    return edges / x.square().sum((1, 2, 3))


def subject(module, layers="block", size=32, **kwargs):
    preprocessing = Preprocessing(input_size=(3, size, size))
    return rc.Subject.from_module(
        module, layers, name="model", preprocessing=preprocessing, **kwargs
    )


def run(model, data, **kwargs):
    kwargs.setdefault("smoothing", "patch_cosine,dirichlet_energy")
    return rc.analyze(model, data, workers=0, device="cpu", **kwargs)


def outputs_of(module, paths, data):
    """What modules return, by path; those whose first axis is not the images, or of several calls, left out."""

    def kept(output):
        tensor = tensor_of(output)
        return None if tensor is None else tensor.clone()

    with torch.inference_mode():
        calls, _ = first_outputs(module, paths, lambda: module(data), kept)
    return {
        path: found[0]
        for path, found in calls.items()
        if len(found) == 1 and found[0] is not None and len(found[0]) == len(data)
    }


def readings(module, paths, size, known=None, on_grid=True):
    outputs = outputs_of(module, paths, images(3, 3, size, size))
    known = layout_of(module) if known is None else known
    with torch.inference_mode():
        return readings_of(module, outputs, known, module, (3, size, size), on_grid=on_grid)


# Families that window, reorder or mix


def nest():
    from timm.models.nest import Nest

    return Nest(64, embed_dims=(8, 16, 32), num_heads=(1, 2, 4), depths=(1, 1, 2), num_classes=4)


def hiera():
    from timm.models.hiera import Hiera

    return Hiera((128, 128), embed_dim=8, num_heads=1, stages=(1, 1, 2, 1), num_classes=4)


@pytest.mark.parametrize(
    ("factory", "size", "ends", "placed"),
    [
        (nest, 64, ["levels.0.transformer_encoder.0", "levels.1.transformer_encoder.0"], 1),
        (hiera, 128, ["blocks.0", "blocks.1", "blocks.3"], 1),
    ],
)
def test_tokens_out_of_raster_order_are_read_and_have_no_grid(factory, size, ends, placed):
    """All of a window's tokens count; on the grid only the last stage, one window, in raster order."""
    module = seeded(factory)
    data = images(16, 3, size, size)
    with pytest.warns(rc.AnalysisWarning, match="has no patch grid") as caught:
        result = run(subject(module, size=size), data, batch_size=16)
    assert len([each for each in caught if "grid" in str(each.message)]) == 1
    found = dict(
        zip(
            [layer.path for layer in result.layers],
            zip(
                result.smoothing("patch_cosine", "model").values,
                result.smoothing("dirichlet_energy", "model").values,
                strict=True,
            ),
            strict=True,
        )
    )
    with torch.inference_mode():
        known = module.forward_intermediates(data, norm=False, intermediates_only=True)
    last = list(found)[-1]
    for path, maps in zip([*ends, last], known, strict=True):
        expected = cosine(maps.flatten(2).mT).mean()
        assert found[path][0] == pytest.approx(float(expected), abs=TOLERANCE)
    assert all(np.isnan(found[path][1]) for path in ends)
    assert found[last][1] == pytest.approx(float(energy(known[-1]).mean()), rel=TOLERANCE)


def hugging_face(kind, **kwargs):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**kwargs)
    return seeded(getattr(transformers, f"{kind}Model"), config)


SMALL_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(("kind", "prefix"), [("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5)])
def test_a_hugging_face_transformer_needs_no_statement(kind, prefix):
    module = hugging_face(kind, **SMALL_VIT)
    data = images(8, 3, 32, 32)
    result = run(subject(module), data, batch_size=8)
    hidden = outputs_of(module, find_layers(module, "block"), data)
    for index, output in enumerate(hidden.values()):
        patches = output[:, prefix:]
        maps = patches.mT.unflatten(2, (4, 4))
        found = result.smoothing("patch_cosine", "model").values[index]
        assert found == pytest.approx(float(cosine(patches).mean()), abs=TOLERANCE)
        found = result.smoothing("dirichlet_energy", "model").values[index]
        assert found == pytest.approx(float(energy(maps).mean()), rel=TOLERANCE)


def test_a_model_with_prefix_tokens_in_its_last_stage_only():
    module = hugging_face(
        "Cvt",
        embed_dim=[8, 16, 32],
        num_heads=[1, 2, 2],
        depth=[1, 2, 3],
        image_size=64,
    )
    found = readings(module, find_layers(module, "block"), 64)
    assert list(found.values()) == [
        Reading(TokenLayout("nlc"), (16, 16)),
        *[Reading(TokenLayout("nlc"), (8, 8))] * 2,
        *[Reading(TokenLayout("nlc", 1), (4, 4))] * 3,
    ]
    with pytest.warns(rc.AnalysisWarning, match="left out of --tokens cls"):
        result = run(subject(module, size=64), images(8, 3, 64, 64), tokens="cls", batch_size=8)
    assert len(result.layers) == 3


def test_stages_of_convolutions_then_of_transformer_blocks():
    """TinyViT: a stage of maps with channels first, then stages with channels last."""
    module = seeded(timm.create_model, "tiny_vit_5m_224", depths=(1, 1, 1, 1), num_classes=4)
    data = images(8, 3, 64, 64)
    result = run(subject(module, size=64), data, batch_size=8, tokens="mean")
    formats = [
        reading.layout.format
        for reading in readings(module, [*find_layers(module, "block")], 64).values()
    ]
    assert formats == ["nchw", "nhwc", "nhwc", "nhwc"]
    with torch.inference_mode():
        known = module.forward_intermediates(data, intermediates_only=True)
    np.testing.assert_allclose(
        result.smoothing("patch_cosine", "model").values,
        [float(cosine(maps.flatten(2).mT).mean()) for maps in known],
        atol=TOLERANCE,
    )


FAMILIES = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256",
    "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "crossvit": "crossvit_tiny_240",
    "davit": "davit_tiny",
    "deit": "deit_tiny_distilled_patch16_224",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxvit": "maxvit_pico_rw_256",
    "metaformer": "caformer_s18",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "pit": "pit_ti_224",
    "poolformer": "poolformer_s12",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repvit": "repvit_m0_9",
    "resnet": "resnet18",
    "rexnet": "rexnet_100",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin": "swin_tiny_patch4_window7_224",
    "swinv2": "swinv2_tiny_window8_256",
    "swinv2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "twins": "twins_svt_small",
    "visformer": "visformer_tiny",
    "vit": "vit_tiny_patch16_224",
    "vit_hybrid": "vit_tiny_r_s16_p8_224",
    "vit_registers": "vit_wee_patch16_reg1_gap_256",
    "vit_relpos": "vit_relpos_small_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "xception": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}
"""A small model of each timm family whose intermediate features are outputs of blocks."""

SAMPLE = ("efficientformer", "levit", "mobilevit", "pit", "starnet", "xcit")
UNORDERED = ("hiera", "nest")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in SAMPLE else pytest.mark.whole)
        for family in FAMILIES
    ],
)
def test_measures_of_timms_families_are_those_of_their_intermediates(family):
    """timm gives stages as maps in raster order: the blocks that end them must have the same measures."""
    module = seeded(timm.create_model, FAMILIES[family])
    size = module.pretrained_cfg["input_size"][-1]
    data = images(3, 3, size, size)
    paths = find_layers(module, "block")
    outputs = outputs_of(module, paths, data)
    with torch.inference_mode():
        found = readings_of(
            module, outputs, layout_of(module), module, (3, size, size), on_grid=True
        )
        known = [
            maps[0] if isinstance(maps, tuple | list) else maps
            for maps in module.forward_intermediates(
                data,
                output_fmt="NCHW",
                intermediates_only=True,
                **(
                    {"norm": False}
                    if "norm" in signature(module.forward_intermediates).parameters
                    else {}
                ),
            )
        ]
    assert all(isinstance(each, Reading) for each in found.values())
    without = [
        path for path, each in found.items() if each.grid is None and outputs[path].shape[1] > 1
    ]
    assert bool(without) == (family in UNORDERED)
    numbers = [in_any_order(maps) for maps in known]
    equal = 0
    for path, reading in found.items():
        own = in_any_order(patches_of(outputs[path], reading.layout))
        for maps in (
            maps for maps, each in zip(known, numbers, strict=True) if torch.equal(own, each)
        ):
            equal += 1
            patches = patches_of(outputs[path], reading.layout)
            torch.testing.assert_close(
                cosine(patches),
                cosine(maps.flatten(2).mT),
                rtol=0,
                atol=TOLERANCE,
                equal_nan=True,  # a token of zeros, after a ReLU, has no cosine
            )
            if reading.grid is not None:
                ours = patches.mT.unflatten(2, reading.grid)
                torch.testing.assert_close(energy(ours), energy(maps), rtol=TOLERANCE, atol=0)
    assert equal


def in_any_order(output):
    """The numbers of an output of several images, sorted: equal for the same features however they lie."""
    return output.flatten(1).sort(1).values


# Evidence of the parameters, and of the places


class Views(nn.Module):
    """Features seen as asked, after a convolution with as many channels as positions in a row."""

    def __init__(self, view, channels=8, part=nn.Identity):
        super().__init__()
        self.embed = nn.Conv2d(3, channels, 4, 4)
        self.norm = part()
        self.view = view

    def forward(self, x):
        x = self.embed(x)
        self.norm(self.view(x))
        return x.mean((2, 3))


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


# Statements, and lines that ask for them


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Detector(nn.Module):
    """A class token, 16 patches, and two tokens of another kind behind them: no number of prefixes fits."""

    def __init__(self, extra=2, depth=3):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(depth))
        self.extra = extra

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True) + 1, x, x[:, : self.extra] - 1], 1)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def detector(extra=2):
    return subject(seeded(Detector, extra))


def test_one_line_a_model_says_what_to_type():
    data = images(8, 3, 32, 32)
    with pytest.warns(rc.AnalysisWarning) as caught:
        result = run(detector(), data, batch_size=8, smoothing=None)
    [line] = [str(each.message) for each in caught]
    assert line.startswith(
        "model: layer blocks.0 returns 19 tokens, which make no grid on images of 32x32 without 0, 1, 2, 4 or 5 "
        "prefix tokens: say how many there are, prefix_tokens=N"
    )
    assert "2 more: blocks.1, blocks.2" in line
    assert result.warnings == (line,)
    assert np.isnan(result.smoothing("patch_cosine", "model").values).all()


def test_prefix_tokens_are_stated_in_python_and_on_the_command_line(tmp_path):
    data = images(8, 3, 32, 32)
    python = subject(seeded(Detector), prefix_tokens=3)
    by_python = run(python, data, batch_size=8, smoothing="token_norm")
    text = "tests.test_layouts:detector,prefix_tokens=3,label=model"
    by_text = run(text, data, batch_size=8, smoothing="token_norm")
    with torch.inference_mode():
        hidden = outputs_of(python.module, ["blocks.0"], data)["blocks.0"]
    expected = float(hidden[:, 3:].norm(dim=2).mean())
    for result in (by_python, by_text):
        found = result.smoothing("token_norm", "model").values[0]
        assert found == pytest.approx(expected, rel=TOLERANCE)
    assert by_text.provenance["stated"] == {"model": {"layout": None, "prefix_tokens": 3}}
    layout = {"format": "nlc", "prefix_tokens": 3, "grid": None}
    assert by_text.provenance["models"][0]["layers"][0] == ["blocks.0", "all", layout]


def test_the_command_line_refuses_a_layout_that_the_shapes_contradict(tmp_path):
    np.save(tmp_path / "images.npy", images(8, 3, 32, 32).numpy())
    arguments = [
        "--data",
        str(tmp_path / "images.npy"),
        "--batch-size",
        "8",
        "--out",
        str(tmp_path),
    ]
    for key, message in [
        ("layout=nhcw", "layout='nhcw' is unknown; choose from nlc, nchw, nhwc"),
        ("layout=nhwc", "which is nchw and not nhwc on images of 32x32: give layout=nchw"),
    ]:
        model = f"test_resnet=random,{key}"
        result = CliRunner().invoke(
            app, ["analyze", "--model", model, "--layers", "layer1", "--tokens", "mean", *arguments]
        )
        assert result.exit_code == 1
        assert message in " ".join(str(result.output).split())


def test_the_command_line_comes_before_what_a_subject_says():
    made = rc.subjects.resolve("tests.test_layouts:detector,layout=nhwc,prefix_tokens=0")[0]
    assert (made.layout.stated, made.layout.stated_prefix) == ("nhwc", 0)


def test_what_was_found_and_what_was_stated_make_one_analysis_if_they_are_the_same():
    data = images(8, 3, 32, 32)

    def fingerprint(**stated):
        model = subject(seeded(Detector, 0), **stated)
        return rc.prepare(model, data, workers=0, device="cpu", batch_size=8).fingerprint

    assert fingerprint() == fingerprint(prefix_tokens=1, layout="nlc")
    module = seeded(Views, lambda x: x)
    prints = {
        rc.prepare(
            subject(module, ["norm"], layout=layout), data, workers=0, device="cpu", batch_size=8
        ).fingerprint
        for layout in (None, "nchw", "nhwc")
    }
    assert len(prints) == 2


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
    from refiner_cka.subjects.layouts import prefix_of

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
