"""The optimisation: its first step, its rate, its losses."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.training import Recipe
from tests.training.tiny import SIDE, network, subject


def test_one_step_is_adamw_on_the_smoothed_cross_entropy(folder):
    """The first step of AdamW by hand, in float64: without moments it is the sign of the gradient."""
    module = network()
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    labels = torch.tensor([0] * 20 + [1] * 20)
    by_hand = copy.deepcopy(module).double()
    loss = nn.functional.cross_entropy(by_hand(inputs), labels, label_smoothing=0.2)
    loss.backward()
    changed = {"weight_decay": 0.3, "label_smoothing": 0.2, "warmup": 0.5}
    recipe = Recipe(epochs=1, batch_size=40, augmentation=None, **changed)
    trained = rc.train(subject(module), folder, recipe=recipe)
    assert trained.epochs[0].loss == pytest.approx(loss.item(), abs=1e-6)
    # OneCycleLR begins at 1/25 of the peak.
    rate = recipe.learning_rate / 25
    for (name, before), after in zip(
        by_hand.named_parameters(), trained.subject.module.parameters(), strict=True
    ):
        decay = 0.3 * rate if before.ndim > 1 else 0.0
        step = before.grad / (before.grad.abs() + 1e-8)
        expected = before.detach() * (1 - decay) - rate * step
        # Where the gradient is near 0 its float32 rounding decides the step.
        clear = before.grad.abs() > 1e-5
        assert clear.float().mean() > 0.5, name
        difference = (after.detach().double() - expected).abs()[clear]
        assert difference.max() < 1e-6, name


def test_the_rate_rises_then_falls_to_nothing(folder, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def watched(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    rc.train(subject(), folder, recipe=Recipe(epochs=10, batch_size=8, learning_rate=1e-2))
    assert len(rates) == 50
    assert max(rates) == pytest.approx(1e-2, rel=1e-2)
    assert int(np.argmax(rates)) == pytest.approx(5, abs=1)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.1), (9, 0.1), (3, 0.0)])
def test_any_number_of_steps_can_be_warmed_up(folder, epochs, warmup):
    recipe = Recipe(epochs=epochs, batch_size=40, warmup=warmup)
    assert len(rc.train(subject(), folder, recipe=recipe).epochs) == epochs


def test_a_loss_that_is_no_number_ends_it(folder):
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=math.inf)
    with pytest.raises(rc.ModelError, match="lower the learning rate"):
        rc.train(subject(), folder, recipe=recipe)


def test_refiner_learns_with_token_mixing(folder):
    name = f"refiner_nano=random,depth=2,img_size={SIDE},token_mixing=true"
    trained = rc.train(name, folder, held_out=folder, recipe=Recipe(epochs=5, batch_size=8))
    assert trained.epochs[-1].accuracy > 0.9
