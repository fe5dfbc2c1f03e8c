"""`models`: aliases, timm's names, layers."""

from tests.cli.running import succeed


def test_models():
    listed = succeed("models").stdout
    for alias in ("vit_ti", "vit_l", "deit_b", "resnet152", "refiner_m"):
        assert alias in listed
    assert "resnet50.a1_in1k" in succeed("models", "--search", "resnet50").stdout
    layers = succeed("models", "deit_ti").stdout
    assert "blocks.11" in layers
    assert "197x192" in layers
