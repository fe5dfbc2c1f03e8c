"""Reading the attention of every stage."""

import pytest
import torch

from refiner_cka.refiner import record_attention

from .conftest import LAYOUTS


@LAYOUTS
@pytest.mark.parametrize("gradients", [True, False])
def test_every_stage_is_recorded_and_fits_the_others(make, images, share, gradients):
    model = make(share_attention=share)
    with torch.set_grad_enabled(gradients):
        expected = model(images)
        with record_attention(model) as maps:
            torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)
    assert list(maps) == [f"blocks.{index}.attn" for index in range(4)]
    before = None
    for path, stages in maps.items():
        attention = model.get_submodule(path)
        assert stages.passed.shape == (3, 4, 17, 17)
        assert (stages.refined is not None) == attention.refines
        if share and path in ("blocks.1.attn", "blocks.3.attn"):
            assert stages.raw is None
            assert stages.passed is before
        else:
            torch.testing.assert_close(stages.raw.sum(-1), torch.ones(3, 4, 17))
            joined = stages.raw if before is None else stages.raw + 6**-0.5 * before
            if not attention.refines:
                torch.testing.assert_close(stages.passed, joined)
        joined = before if stages.raw is None else joined
        if attention.refines:
            refined = attention.adapt_bn(attention.DLA(joined))
            torch.testing.assert_close(stages.refined, refined, atol=1e-5, rtol=1e-5)
        if stages.raw is not None and attention.refines:
            assert stages.passed is stages.refined
        before = stages.passed


def test_refinement_stays_fast_while_it_is_recorded(make, images, norms_called):
    model = make()
    with torch.no_grad(), record_attention(model), norms_called() as called:
        model(images)
    assert called == []


def test_nothing_is_left_behind(make, images):
    model = make()
    keys = list(model.state_dict())
    with pytest.raises(RuntimeError, match="stop"), record_attention(model):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())
    assert list(model.state_dict()) == keys


def test_a_recorded_map_is_not_overwritten_by_later_blocks(make, images):
    model = make()
    with torch.no_grad():
        kept = []
        for block in model.blocks:
            block.register_forward_hook(
                lambda m, i, output: kept.append((output, output[1].clone()))
            )
        model(images)
    assert all(torch.equal(output[1], copied) for output, copied in kept)
