"""Each mechanism against its formula, and every ablation of the paper."""

import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer

from refiner_cka.errors import ModelError
from refiner_cka.refiner import (
    AttentionConfig,
    AttentionRefinement,
    RefinedSelfAttention,
    SharedAttention,
)
from refiner_cka.refiner.convolutions import (
    AttentionExpansion,
    AttentionReduction,
    DistributedLocalAttention,
)
from refiner_cka.refiner.stem import ConvStem

from .conftest import LAYOUTS, SMALL


def test_expansion_and_reduction_are_linear_mixtures_of_maps():
    maps = torch.rand(2, 4, 7, 7)
    expansion, reduction = AttentionExpansion(4, 3), AttentionReduction(12, 4)
    expected = torch.einsum("gh,bhij->bgij", expansion.weight[:, :, 0, 0], maps)
    torch.testing.assert_close(expansion(maps), expected)
    mixed = torch.einsum("hg,bgij->bhij", reduction.weight[:, :, 0, 0], expected)
    torch.testing.assert_close(reduction(expected), mixed)


def test_convolving_the_map_is_aggregating_neighbours_before_attending():
    tokens, width = 9, 5
    maps, values = torch.rand(1, 1, tokens, tokens), torch.randn(tokens, width)
    dla = DistributedLocalAttention(1, kernel_size=3)
    kernel = dla.weight[0, 0].detach()
    attended = dla(maps)[0, 0] @ values
    # Row a of the kernel belongs to query i + a - 1, column b aggregates values j - b + 1.
    padded_values = torch.nn.functional.pad(values, (0, 0, 1, 1))
    padded_queries = torch.nn.functional.pad(maps[0, 0], (0, 0, 1, 1))
    expected = torch.zeros(tokens, width)
    for a in range(3):
        local = sum(kernel[a, b] * padded_values[2 - b : 2 - b + tokens] for b in range(3))
        expected += padded_queries[a : a + tokens] @ local
    torch.testing.assert_close(attended, expected)


def test_refinement_has_a_residual():
    refinement = AttentionRefinement(4).eval()
    torch.nn.init.zeros_(refinement.conv_pro.weight)
    maps = torch.rand(2, 4, 7, 7)
    torch.testing.assert_close(refinement(maps), maps)


def test_mode_none_leaves_maps_alone():
    maps = torch.rand(2, 4, 7, 7)
    refinement = AttentionRefinement(4, mode="none")
    assert refinement(maps) is maps
    assert not list(refinement.parameters())


@pytest.mark.parametrize("gradients", [True, False])
def test_mode_none_without_the_map_before_is_timm_attention(gradients):
    ours = RefinedSelfAttention(AttentionConfig(48, 4, refine_mode="none", map_scale=0.0)).eval()
    theirs = Attention(48, num_heads=4, qkv_bias=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x, before = torch.randn(2, 17, 48), torch.rand(2, 4, 17, 17)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(ours(x, before)[0], theirs(x), atol=1e-6, rtol=0)


def test_a_whole_unrefined_model_is_timm_vision_transformer(make, images):
    ours = make(
        conv_stem=False, share_attention=False, refine_mode="none", map_scale=0.0, mlp_ratio=4
    )
    with torch.no_grad():
        ours.aux_head.weight.zero_()
        ours.aux_head.bias.zero_()
    theirs = VisionTransformer(
        **SMALL,
        num_classes=5,
        # LN(x / 2) with eps 1e-6 is LN(x) with eps 4e-6.
        norm_layer=lambda dim, **_: torch.nn.LayerNorm(dim, eps=4e-6),
    ).eval()
    theirs.norm.eps = 1e-6
    state = ours.state_dict()
    for name in list(state):
        layer, _, kind = name.rpartition(".")
        if layer.endswith("attn.proj"):
            state[name] = 2 * state[name]
        if layer.endswith("mlp.fc2"):
            scale = 2 * state[name.replace(f"fc2.{kind}", "scale_channel")]
            state[name] = state[name] * (scale[:, None] if kind == "weight" else scale)
    theirs.load_state_dict(
        {name: t for name, t in state.items() if "scale_channel" not in name and "aux" not in name}
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=2e-6, rtol=1e-5)


def test_released_layout_alternates_plain_and_shared_attention(make):
    kinds = [type(block.attn) for block in make().blocks]
    assert kinds == [RefinedSelfAttention, SharedAttention] * 2
    assert [block.attn.refines for block in make().blocks] == [False, True] * 2


def test_paper_layout_refines_every_map(make):
    blocks = make(share_attention=False).blocks
    assert all(type(b.attn) is RefinedSelfAttention and b.attn.refines for b in blocks)


def test_shared_attention_passes_on_the_map_it_received(make):
    attention = make().blocks[1].attn
    before = torch.rand(2, 4, 17, 17)
    assert attention(torch.randn(2, 17, 24), before)[1] is before
    with pytest.raises(ValueError, match="map of the block before"):
        attention(torch.randn(2, 17, 24))


@LAYOUTS
@pytest.mark.parametrize(
    "options",
    [
        {"refine_mode": "none"},
        {"refine_mode": "conv"},
        {"refine_mode": "conv", "kernel_size": 5},
        {"expansion_ratio": 1},
        {"expansion_ratio": 2, "kernel_size": 1},
        {"expansion_ratio": 6, "kernel_size": 7},
        {"map_scale": 0.0},
        {"map_scale": 1.0},
        {"conv_stem": False},
        {"qkv_bias": False},
    ],
)
def test_every_ablation_builds_and_both_paths_agree(make, images, share, options):
    model = make(share_attention=share, **options)
    plain = model(images)
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain, atol=1e-5, rtol=1e-5)


@LAYOUTS
def test_the_expansion_ratio_is_not_ignored(make, share):
    refining = [b.attn for b in make(share_attention=share, expansion_ratio=5).blocks]
    assert all(a.DLA.conv_exp.out_channels == 20 for a in refining if a.refines)


def test_the_scale_of_the_added_map_matters(make, images):
    with torch.no_grad():
        outputs = [make(map_scale=scale)(images) for scale in (None, 0.0, 1.0, 6**-0.5)]
    torch.testing.assert_close(outputs[0], outputs[3])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine_mode": "conv_expand"}, "expand-conv, conv, none"),
        ({"refine_mode": "conv", "expansion_ratio": 3}, "no effect"),
        ({"refine_mode": "none", "expansion_ratio": 3}, "no effect"),
        ({"expansion_ratio": 0}, "1 or more"),
        ({"kernel_size": 2}, "odd"),
        ({"embed_dim": 25}, "multiple of num_heads"),
        ({"patch_size": 9}, "even"),
        ({"global_pool": "map"}, "unknown"),
    ],
)
def test_what_cannot_be_honoured_is_refused(make, options, message):
    with pytest.raises(ModelError, match=message):
        make(**options)


def test_the_stem_gives_patches_row_by_row():
    stem = ConvStem((32, 64), 8, 3, 6).eval()
    images = torch.zeros(1, 3, 32, 64)
    with torch.no_grad():
        blank = stem(images)
        images[:, :, 20:22, 44:46] = 1  # the middle of the patch in row 2, column 5
        change = (stem(images) - blank).norm(dim=-1)[0]
    assert blank.shape == (1, 32, 6)
    assert change.argmax() == 2 * 8 + 5


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (32, 24)])
def test_images_of_another_size_are_refused(make, shape):
    with pytest.raises(ModelError, match="32x32"):
        make()(torch.randn(1, 3, *shape))


def test_images_that_are_no_whole_patches_are_refused(make):
    with pytest.raises(ModelError, match="patches of 8x8"):
        make(dynamic_img_size=True)(torch.randn(1, 3, 36, 32))
