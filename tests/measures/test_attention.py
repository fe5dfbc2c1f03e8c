"""Attention measures against loops in float64, in closed forms, and read from models that stay as they were."""

import copy
import itertools
import weakref

import numpy as np
import pytest
import timm
import torch

import refiner_cka as rc
from refiner_cka.measures import attention
from refiner_cka.measures import maps as maps_module
from refiner_cka.measures.attention import MEASURES
from refiner_cka.measures.maps import Maps, distances
from refiner_cka.refiner import Refiner, record_attention
from tests.analysis import runs

TOLERANCE = 2e-5
GRID, PATCH = (3, 4), (16.0, 16.0)
COUNT = 12


def places():
    return np.array([[16.0 * i, 16.0 * j] for i, j in itertools.product(range(3), range(4))])


def entropy(weights):
    rows = weights.reshape(-1, weights.shape[-1])
    return np.mean([-sum(p * np.log(p) for p in row if p > 0) for row in rows])


def distance(weights):
    where = places()
    return np.mean(
        [
            sum(head[i, j] * np.hypot(*(where[i] - where[j])) for j in range(COUNT))
            for head in weights
            for i in range(COUNT)
        ]
    )


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def head_similarity(maps):
    return np.mean(
        [cosine(a[:, j], b[:, j]) for a, b in itertools.permutations(maps, 2) for j in range(COUNT)]
    )


def sink(weights):
    """Each patch's attention added up head by head, the largest over the middle."""
    sums = [[sum(head[i, j] for i in range(COUNT)) for j in range(COUNT)] for head in weights]
    return np.mean([max(each) / np.median(each) for each in sums])


def softmax_maps(images=4, heads=3, prefix=1):
    generator = torch.Generator().manual_seed(0)
    size = COUNT + prefix
    return torch.randn(images, heads, size, size, generator=generator).mul(2).softmax(-1)


def measured(name, maps, prefix=1, kind="softmax"):
    table = distances(GRID, PATCH, torch.device("cpu"))
    return MEASURES[name].function(Maps(maps, prefix, kind, table)).numpy()


def among_patches(maps, prefix=1):
    patches = maps.double().numpy()[:, :, prefix:, prefix:]
    return patches / patches.sum(-1, keepdims=True)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("attention_entropy", entropy),
        ("attention_distance", distance),
        ("attention_head_similarity", head_similarity),
        ("attention_sink", sink),
    ],
)
def test_measures_equal_float64(name, oracle, prefix):
    maps = softmax_maps(prefix=prefix)
    expected = [oracle(image) for image in among_patches(maps, prefix)]
    np.testing.assert_allclose(measured(name, maps, prefix), expected, rtol=TOLERANCE)


def test_refined_maps_whose_rows_do_not_sum_to_one_and_hold_negative_weights():
    maps = torch.randn(4, 3, COUNT, COUNT, generator=torch.Generator().manual_seed(1)) + 0.5
    exact = maps.double().numpy()
    positive = exact.clip(0)
    positive /= positive.sum(-1, keepdims=True)
    for name, expected in {
        "attention_entropy": [entropy(image) for image in positive],
        "attention_distance": [distance(image) for image in positive],
        "attention_head_similarity": [head_similarity(image) for image in exact],
        "attention_row_sum": exact.sum(-1).mean((1, 2)),
        "attention_sink": [sink(image) for image in positive],
        "attention_negative": (-exact.clip(max=0)).sum((1, 2, 3)) / np.abs(exact).sum((1, 2, 3)),
    }.items():
        found = measured(name, maps, 0, "refined")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 3e-23, 1e20, 2e37])
@pytest.mark.parametrize("name", MEASURES)
def test_refined_maps_of_any_size(name, scale):
    """Nothing bounds a refined map; all but its row sum are the same at any size."""
    maps = torch.randn(4, 3, COUNT, COUNT, generator=torch.Generator().manual_seed(1)) + 0.5
    expected = measured(name, maps, 0, "refined").astype(np.float64)
    if name == "attention_row_sum":
        expected = expected * scale
    found = measured(name, maps * scale, 0, "refined")
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_similarity_between_blocks_of_refined_maps_of_any_size():
    maps = torch.randn(4, 3, COUNT, COUNT, generator=torch.Generator().manual_seed(1))
    table = distances(GRID, PATCH, torch.device("cpu"))
    expected = maps_module.block_columns(Maps(maps, 0, "refined", table), 4)
    for scale in (1e-36, 3e-23, 1e20, 5e37):
        found = maps_module.block_columns(Maps(maps * scale, 0, "refined", table), 4)
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=1e-6)


@pytest.mark.parametrize("weight", [1e-15, 1e-25, 1e-37, 1e-42])
def test_a_patch_that_hardly_any_attention_falls_on_counts_like_any_other(weight):
    """Its column's squares are nothing in float32; its direction is what the mean asks for."""
    maps = softmax_maps(prefix=0)
    maps[:, :, :, 5] *= weight
    # Denormal weights are whole numbers of 1.4e-45: the truth is of what they hold.
    expected = [head_similarity(image) for image in maps.double().numpy()]
    found = measured("attention_head_similarity", maps, 0, "refined")
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_uniform_attention():
    """116.5 px is the mean distance of two patches of 16 px on a grid of 14x14."""
    maps = torch.full((2, 3, 196, 196), 1 / 196)
    table = distances((14, 14), (16.0, 16.0), torch.device("cpu"))
    uniform = Maps(maps, 0, "softmax", table)
    steps = np.arange(14)
    by_hand = np.mean(
        [16 * np.hypot(a - b, c - d) for a, b, c, d in itertools.product(steps, repeat=4)]
    )
    assert by_hand == pytest.approx(116.5, abs=0.05)
    assert attention.distance(uniform).tolist() == pytest.approx([by_hand] * 2, rel=1e-5)
    assert attention.entropy(uniform).tolist() == pytest.approx([np.log(196)] * 2, rel=1e-6)
    assert attention.head_similarity(uniform).tolist() == pytest.approx([1.0] * 2, rel=1e-5)
    assert attention.row_sum(uniform).tolist() == pytest.approx([1.0] * 2, rel=1e-6)
    assert attention.negative(uniform).tolist() == [0.0, 0.0]
    assert attention.sink(uniform).tolist() == pytest.approx([1.0] * 2, rel=1e-6)


def test_one_hot_attention():
    """Every patch attends to itself alone: no distance, no entropy; a neighbour: 16 pixels."""
    itself = torch.eye(COUNT).expand(2, 3, -1, -1)
    assert measured("attention_entropy", itself, 0).tolist() == [0.0, 0.0]
    assert measured("attention_distance", itself, 0).tolist() == [0.0, 0.0]
    assert measured("attention_head_similarity", itself, 0) == pytest.approx(1.0)
    # Each attends to the patch one row above it, the first row to the last, two rows away.
    above = torch.eye(COUNT).roll(4, dims=0).expand(2, 3, -1, -1)
    expected = (2 * 16 + 32) / 3
    assert measured("attention_distance", above, 0) == pytest.approx(expected)
    apart = torch.stack([torch.eye(COUNT), torch.eye(COUNT).roll(1, dims=0)]).expand(2, 2, -1, -1)
    assert measured("attention_head_similarity", apart, 0).tolist() == [0.0, 0.0]


def test_a_row_that_attends_to_the_class_token_alone_has_no_part():
    maps = softmax_maps()
    maps[:, :, 4] = 0
    maps[:, :, 4, 0] = 1
    patches = maps.double().numpy()[:, :, 1:, 1:]
    kept = np.delete(patches, 3, axis=2)
    kept = kept / kept.sum(-1, keepdims=True)
    expected = [entropy(image) for image in kept]
    np.testing.assert_allclose(measured("attention_entropy", maps), expected, rtol=TOLERANCE)


def test_a_patch_that_draws_attention_is_a_sink():
    """Of each row it draws half, the others share the rest; in another head all draw alike: the mean of 11 and 1.

    The sink's column adds to 12 / 2, and that of each of the 11 others to 12 / 22.
    """
    drawn = torch.full((COUNT, COUNT), 0.5 / 11)
    drawn[:, 5] = 0.5
    maps = torch.stack([drawn, torch.full((COUNT, COUNT), 1 / COUNT)]).expand(2, -1, -1, -1)
    assert measured("attention_sink", maps, 0).tolist() == pytest.approx([6.0] * 2, rel=1e-6)


def test_where_most_patches_draw_nothing_a_sink_is_undefined_in_that_head_alone():
    maps = softmax_maps()
    expected = [sink(image[[0, 2]]) for image in among_patches(maps)]
    maps[:, 1] = 0
    maps[:, 1, :, 4] = 1
    np.testing.assert_allclose(measured("attention_sink", maps), expected, rtol=TOLERANCE)
    assert np.isnan(measured("attention_sink", maps[:, 1:2])).all()


def test_similarity_between_blocks():
    blocks = [softmax_maps(), softmax_maps().roll(1, dims=0)]
    table = distances(GRID, PATCH, torch.device("cpu"))
    columns = [maps_module.block_columns(Maps(maps, 1, "softmax", table), 3) for maps in blocks]
    found = maps_module.block_similarity(columns).numpy()
    averaged = [among_patches(maps).mean(1) for maps in blocks]
    for image, (p, q) in itertools.product(range(3), itertools.product(range(2), repeat=2)):
        a, b = averaged[p][image], averaged[q][image]
        expected = np.mean([cosine(a[:, j], b[:, j]) for j in range(COUNT)])
        assert found[image, p, q] == pytest.approx(expected, rel=1e-5)


def vit():
    return runs.seeded(timm.create_model, "vit_tiny_patch16_224", img_size=64, depth=3)


def refiner(**kwargs):
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
    return runs.seeded(Refiner, img_size=64, **sizes, **kwargs)


def images():
    return runs.inputs(20, 64)


def subject(module, name="model", **kwargs):
    return runs.subject(module, "block", name, preprocessing=runs.sized(64), **kwargs)


def run(*modules, **kwargs):
    subjects = [each if isinstance(each, rc.Subject) else subject(each) for each in modules]
    return runs.run(subjects, images(), **{"batch_size": 10, "attention": True, **kwargs})


def maps_of(module, data):
    """Each block's softmax from its queries and keys, in float64."""
    kept = []

    def keep(block, inputs, _output):
        x = inputs[0]
        batch, count, dim = x.shape
        heads = block.num_heads
        q, k, _ = block.qkv(x).double().reshape(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        kept.append((q @ k.mT / (dim // heads) ** 0.5).softmax(-1).numpy())

    handles = [block.attn.register_forward_hook(keep) for block in module.blocks]
    with torch.inference_mode():
        module(data)
    for handle in handles:
        handle.remove()
    return kept


def test_maps_of_a_vit_are_those_of_its_queries_and_keys():
    module = vit()
    result = run(module)
    maps = [block[:, :, 1:, 1:] for block in maps_of(module, images())]
    maps = [block / block.sum(-1, keepdims=True) for block in maps]
    found = result.smoothing("attention_entropy", "model")
    expected = [np.mean([entropy(image) for image in block]) for block in maps]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert found.depth.tolist() == [0.0, 0.5, 1.0]
    assert [block.path for block in result.attention] == [f"blocks.{k}.attn" for k in range(3)]
    similar = result.smoothing("attention_block_similarity", "model")
    averaged = [block.mean(1) for block in maps]
    assert similar.images.tolist() == [[16] * 3] * 3  # 8 of each of the two batches
    plan = runs.prepare(subject(module), images(), batch_size=10).plan
    taken = [image for batch in plan.batches for image in batch[:8]]
    expected = np.mean(
        [
            cosine(averaged[0][image][:, j], averaged[2][image][:, j])
            for image in taken
            for j in range(16)
        ]
    )
    assert similar.values[0, 2] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.diagonal(similar.values), 1.0, rtol=1e-6)


def test_blocks_lie_on_the_axis_as_they_are_named_whatever_the_order_of_their_calls():
    named, called = vit(), vit()
    named.blocks = torch.nn.Sequential(*(named.blocks[k] for k in (1, 0, 2)))
    called.blocks.forward = lambda x: called.blocks[2](called.blocks[0](called.blocks[1](x)))
    expected = run(named).smoothing("attention_block_similarity").values
    found = run(called).smoothing("attention_block_similarity").values
    assert abs(expected[0, 2] - expected[1, 2]) > 1e-6
    np.testing.assert_allclose(found[np.ix_([1, 0, 2], [1, 0, 2])], expected, rtol=1e-6)


def test_cka_and_token_measures_are_the_same_with_and_without_attention():
    """Fused and plain attention round differently: a few float32 eps a block."""
    module = vit()
    with_maps, without = run(module), run(module, attention=False)
    np.testing.assert_allclose(with_maps.cka(), without.cka(), atol=1e-5)
    assert with_maps.fingerprint != without.fingerprint
    assert not [name for name in without.measures if name.startswith("attention")]


def test_fused_attention_is_put_back_after_success_and_after_a_failure():
    module = vit()
    module.blocks[1].attn.fused_attn = False
    before = [block.attn.fused_attn for block in module.blocks]
    run(module)
    assert [block.attn.fused_attn for block in module.blocks] == before
    assert all(not part._forward_hooks for part in module.modules())

    class Fails(torch.nn.Module):
        def forward(self, x):
            if len(x) > 3:
                raise RuntimeError("no such batch")
            return x

    module.head = Fails()
    with pytest.raises(RuntimeError, match="no such batch"):
        run(module)
    assert [block.attn.fused_attn for block in module.blocks] == before
    assert all(not part._forward_hooks for part in module.modules())


def test_a_forward_pass_has_at_most_eight_images():
    seen = []
    module = vit()
    module.patch_embed.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    run(module)
    assert max(seen) == maps_module.CHUNK_IMAGES


def test_raw_and_refined_maps_of_a_refiner():
    module = refiner(share_attention=False)
    result = run(module)
    with torch.inference_mode(), record_attention(module) as maps:
        module(images())
    raw = maps["blocks.1.attn"].raw.double().numpy()
    refined = maps["blocks.1.attn"].refined.double().numpy()
    softmax = raw[:, :, 1:, 1:] / raw[:, :, 1:, 1:].sum(-1, keepdims=True)
    found = result.smoothing("attention_entropy", "model")
    assert found.values[1] == pytest.approx(np.mean([entropy(x) for x in softmax]), rel=1e-4)
    sums = result.smoothing("attention_row_sum", "model", maps="refined")
    assert sums.values[1] == pytest.approx(refined[:, :, 1:].sum(-1).mean(), rel=1e-3)
    negative = result.smoothing("attention_negative", "model", maps="refined")
    among = refined[:, :, 1:, 1:]
    share = [-x.clip(max=0).sum() / np.abs(x).sum() for x in among]
    assert negative.values[1] == pytest.approx(np.mean(share), rel=1e-3, abs=1e-6)
    blocks = {block.tokens: [] for block in result.attention}
    for block in result.attention:
        blocks[block.tokens].append(block.path)
    assert list(blocks) == ["softmax", "refined"]
    matrix = result.smoothing("attention_block_similarity", "model", maps="refined").values
    np.testing.assert_allclose(np.diagonal(matrix), 1.0, rtol=1e-5)


def test_a_model_without_attention_is_refused_alone_and_named_beside_another():
    resnet = timm.create_model("resnet10t").eval()
    with pytest.raises(rc.LayerError, match="resnet has no attention that can be read"):
        run(subject(resnet, "resnet"))
    with pytest.warns(rc.AnalysisWarning, match="resnet has no attention"):
        result = run(subject(vit(), "vit"), subject(resnet, "resnet"))
    assert {block.model for block in result.attention} == {"vit"}
    with pytest.raises(rc.ResultError, match="no softmax attention maps of 'resnet'"):
        result.smoothing("attention_entropy", "resnet")


def test_parts_merge_and_files_keep_everything(tmp_path):
    module = vit()
    whole = run(module, batch_size=5)
    parts = [run(copy.deepcopy(module), batch_size=5, shard=(index, 2)) for index in (1, 2)]
    for index, part in enumerate(parts):
        part.save(tmp_path / f"{index}.h5")
    merged = rc.merge([rc.load(tmp_path / f"{index}.h5") for index in range(2)])
    assert merged.attention == whole.attention
    assert merged.measures == whole.measures
    for name in [*MEASURES, "attention_block_similarity"]:
        one, other = whole.smoothing(name, "model"), merged.smoothing(name, "model")
        np.testing.assert_allclose(other.values, one.values, rtol=1e-12, atol=1e-12)


def test_out_of_memory_changes_no_measure():
    class Hungry(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = vit()

        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("no memory")
            return self.inner(x)

    split, whole = run(subject(Hungry(), prefix_tokens=1)), run(vit())
    for name in [*MEASURES, "attention_block_similarity"]:
        one, other = whole.smoothing(name, "model"), split.smoothing(name, "model")
        np.testing.assert_allclose(other.values, one.values, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(other.images, one.images)


def test_shared_attention_of_a_refiner_has_no_softmax_of_its_own():
    result = run(refiner(share_attention=True))
    paths = [block.path for block in result.attention if block.tokens == "softmax"]
    assert paths == ["blocks.0.attn", "blocks.2.attn"]


def test_no_map_outlives_its_hook():
    module = vit()
    references, alive = [], []

    def watch(_module, _inputs, output):
        alive.append(sum(reference() is not None for reference in references))
        references.append(weakref.ref(output))

    for block in module.blocks:
        block.attn.attn_drop.register_forward_hook(watch)
    run(module, batch_size=20)
    assert len(references) >= 9
    assert max(alive) == 0
