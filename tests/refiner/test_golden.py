"""Agreement with tensors computed by the reference model."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from refiner_cka.refiner import (
    AttentionConfig,
    AttentionRefinement,
    RefinedSelfAttention,
    Refiner,
    record_attention,
    refiner_vit_l,
    refiner_vit_m,
    refiner_vit_s,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "refiner"
TOLERANCE = 1e-5  # of each tensor's largest absolute value

PATHS = pytest.mark.parametrize("path", ["plain", "fast"])


def assert_agrees(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    error = (ours - reference).abs().max() / reference.abs().max()
    assert error <= TOLERANCE, f"off by {error:.1e} of the largest value"


def weights(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    start = f"{prefix}weights/"
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


@pytest.fixture(params=["released", "paper"])
def layout(request):
    return request.param


@pytest.fixture
def tensors(layout):
    return load_file(GOLDEN / f"refiner_small_{layout}.safetensors")


@pytest.fixture
def model(tensors, layout, path):
    size = {"img_size": 64, "embed_dim": 48, "num_heads": 4, "depth": 4, "num_classes": 10}
    model = Refiner(**size, share_attention=layout == "released").eval()
    model.load_state_dict(weights(tensors))
    model.fast_evaluation = path == "fast"
    return model


@PATHS
def test_every_block_agrees(tensors, model):
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        logits = model(tensors["input"])
    assert_agrees(logits, tensors["logits"])
    for index, (tokens, passed) in enumerate(outputs):
        assert_agrees(tokens, tensors[f"block_output/{index}"])
        assert_agrees(passed, tensors[f"attention/{index}"])


@PATHS
def test_recorded_maps_agree(tensors, model):
    with torch.no_grad(), record_attention(model) as maps:
        model(tensors["input"])
    refined = [block.refined for block in maps.values() if block.refined is not None]
    assert len(refined) == sum(key.startswith("refined_attention/") for key in tensors)
    for index, block in enumerate(refined):
        assert_agrees(block, tensors[f"refined_attention/{index}"])
    for index, block in enumerate(maps.values()):
        assert_agrees(block.passed, tensors[f"attention/{index}"])


@PATHS
@pytest.mark.parametrize(
    ("case", "options"),
    [("expand3", {"ratio": 3}), ("expand1", {"ratio": 1}), ("conv", {"mode": "conv"})],
)
def test_refinement_agrees(case, options, path, norms_called):
    tensors = load_file(GOLDEN / "dla.safetensors")
    refinement = AttentionRefinement(4, **options)
    refinement.load_state_dict(weights(tensors, f"{case}/"))
    attention = RefinedSelfAttention(AttentionConfig(8, 4)).eval()
    attention.DLA = refinement.eval()
    # Makes a fresh norm the identity; torch 2.10 takes no eps of 0.
    attention.adapt_bn.running_var -= attention.adapt_bn.eps
    attention.fast_evaluation = path == "fast"
    with torch.no_grad(), norms_called() as called:
        refined = attention.refine(tensors[f"{case}/input"])
    assert bool(called) == (path == "plain")
    assert_agrees(refined, tensors[f"{case}/output"])


def test_names_and_shapes_of_the_state_dict_are_the_reference_ones():
    reference = json.loads((GOLDEN / "refiner_vit_s.keys.json").read_text())
    state_dict = timm.create_model("refiner_vit_s").state_dict()
    assert {name: list(tensor.shape) for name, tensor in state_dict.items()} == reference
    assert list(state_dict) == list(reference)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (Refiner, 25_408_656),
        (refiner_vit_s, 25_408_656),
        (refiner_vit_m, 55_450_932),
        (refiner_vit_l, 81_150_192),
    ],
)
def test_parameter_counts(make, count):
    with torch.device("meta"):
        model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == count
