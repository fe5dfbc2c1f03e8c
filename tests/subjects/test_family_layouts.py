"""How the layers of known families are read, against features whose order is known: timm's intermediates."""

from inspect import signature

import numpy as np
import pytest
import timm
import torch

import refiner_cka as rc
from refiner_cka.subjects import find_layers
from refiner_cka.subjects.layouts import readings_of
from refiner_cka.subjects.locality import Reading
from refiner_cka.subjects.readout import TokenLayout, patches_of
from refiner_cka.subjects.timm_attributes import layout as layout_of
from tests.subjects.tokens import (
    SMALL_VIT,
    TOLERANCE,
    cosine,
    energy,
    hugging_face,
    images,
    outputs_of,
    readings,
    run,
    seeded,
    subject,
)


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
    measures = [
        result.smoothing(name, "model").values for name in ("patch_cosine", "dirichlet_energy")
    ]
    found = {layer.path: values for layer, *values in zip(result.layers, *measures, strict=True)}
    with torch.inference_mode():
        known = module.forward_intermediates(data, norm=False, intermediates_only=True)
    last = list(found)[-1]
    for path, maps in zip([*ends, last], known, strict=True):
        expected = cosine(maps.flatten(2).mT).mean()
        assert found[path][0] == pytest.approx(float(expected), abs=TOLERANCE)
    assert all(np.isnan(found[path][1]) for path in ends)
    assert found[last][1] == pytest.approx(float(energy(known[-1]).mean()), rel=TOLERANCE)


@pytest.mark.parametrize(("kind", "prefix"), [("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5)])
def test_a_hugging_face_transformer_needs_no_statement(kind, prefix):
    module = hugging_face(f"{kind}Model", f"{kind}Config", **SMALL_VIT)
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
    size = {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}
    module = hugging_face("CvtModel", "CvtConfig", **size, image_size=64)
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
ENDED_OTHERWISE = ("hrnet", "rdnet")
"""Their stages do not end with a block: HRNet's with the fusion of its branches, RDNet's with a concatenation."""

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
    options = (
        {"norm": False} if "norm" in signature(module.forward_intermediates).parameters else {}
    )
    with torch.inference_mode():
        found = readings_of(
            module, outputs, layout_of(module), module, (3, size, size), on_grid=True
        )
        intermediates = module.forward_intermediates(
            data, output_fmt="NCHW", intermediates_only=True, **options
        )
    known = [maps[0] if isinstance(maps, tuple | list) else maps for maps in intermediates]
    assert all(isinstance(each, Reading) for each in found.values())
    without = [each.grid is None and outputs[path].shape[1] > 1 for path, each in found.items()]
    assert any(without) == (family in UNORDERED)
    numbers = [in_any_order(maps) for maps in known]
    equal = 0
    for path, reading in found.items():
        own = in_any_order(patches_of(outputs[path], reading.layout))
        for maps, each in zip(known, numbers, strict=True):
            if not torch.equal(own, each):
                continue
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
    assert bool(equal) == (family not in ENDED_OTHERWISE)


def in_any_order(output):
    """The numbers of an output of several images, sorted: equal for the same features however they lie."""
    return output.flatten(1).sort(1).values
