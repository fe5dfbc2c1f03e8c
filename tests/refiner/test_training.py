"""Training: gradients, statistics, token mixing, dense supervision, checkpointing, digits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from refiner_cka.refiner import Box, Refiner, TrainingOutput, dense_supervision_loss
from refiner_cka.refiner.heads import mix_tokens, random_box

from .conftest import LAYOUTS


def statistics(model):
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if "running" in name or "num_batches" in name
    }


@LAYOUTS
@pytest.mark.parametrize("mode", ["expand-conv", "conv", "none"])
@pytest.mark.parametrize("mixing", [True, False])
def test_gradients_reach_every_parameter_and_statistics_move(make, images, share, mode, mixing):
    model = make(share_attention=share, refine_mode=mode, token_mixing=mixing).train()
    before = statistics(model)
    target = torch.tensor([0, 1, 2])
    output = model(images)
    loss = dense_supervision_loss(output, target) if mixing else F.cross_entropy(output, target)
    loss.backward()
    unreached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert unreached == []
    after = statistics(model)
    assert before
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("option", ["token_mixing", "dense_supervision"])
def test_training_output(make, images, option):
    model = make(**{option: True}).train()
    class_logits, patch_logits, box = model(images)
    assert class_logits.shape == (3, 5)
    assert patch_logits.shape == (3, 16, 5)
    assert isinstance(box, Box)
    assert model.eval()(images).shape == (3, 5)


def test_mixing_exchanges_the_box_and_twice_is_not_at_all():
    tokens = torch.arange(2 * 12.0).reshape(2, 12, 1)
    mixed = mix_tokens(tokens, (3, 4), Box(1, 2, 3, 4))
    exchanged = [6, 7, 10, 11]
    kept = [0, 1, 2, 3, 4, 5, 8, 9]
    assert torch.equal(mixed[:, exchanged], tokens.flip(0)[:, exchanged])
    assert torch.equal(mixed[:, kept], tokens[:, kept])
    assert torch.equal(mix_tokens(mixed, (3, 4), Box(1, 2, 3, 4)), tokens)


def test_random_boxes_lie_in_the_grid_and_follow_the_seed():
    torch.manual_seed(0)
    boxes = [random_box((6, 9)) for _ in range(500)]
    assert all(0 <= b.top <= b.bottom <= 6 and 0 <= b.left <= b.right <= 9 for b in boxes)
    assert min(b.area() for b in boxes) == 0
    assert max(b.area() for b in boxes) > 27
    torch.manual_seed(0)
    assert boxes == [random_box((6, 9)) for _ in range(500)]


def test_patch_logits_come_back_under_their_own_image(make, monkeypatch):
    # Without blocks a patch token depends on its own patch alone.
    model = make(depth=0, token_mixing=True, dense_supervision=True)
    model.pos_embed.data.zero_()
    images = torch.randn(4, 3, 32, 32)
    expected = model.aux_head(model.forward_features(images)[:, 1:])
    monkeypatch.setattr("refiner_cka.refiner.model.random_box", lambda grid: Box(0, 1, 3, 4))
    model.train()
    model.patch_embed.eval()
    torch.testing.assert_close(model(images).patch_logits, expected)


def test_loss_formula():
    torch.manual_seed(0)
    class_logits, patch_logits = torch.randn(2, 3), torch.randn(2, 8, 3)
    output = TrainingOutput(class_logits, patch_logits, Box(0, 0, 1, 2))
    target = torch.tensor([0, 2])
    patches = torch.randint(3, (2, 8))
    mixed = 2 / 8
    expected = (
        (1 - mixed) * F.cross_entropy(class_logits, target)
        + mixed * F.cross_entropy(class_logits, target.flip(0))
        + 0.25 * F.cross_entropy(patch_logits.reshape(16, 3), patches.reshape(16))
    )
    loss = dense_supervision_loss(output, target, patches, patch_weight=0.25)
    torch.testing.assert_close(loss, expected)
    soft = dense_supervision_loss(
        output, F.one_hot(target, 3).float(), F.one_hot(patches, 3).float(), patch_weight=0.25
    )
    torch.testing.assert_close(soft, expected)
    whole = target[:, None].expand(2, 8)
    torch.testing.assert_close(
        dense_supervision_loss(output, target), dense_supervision_loss(output, target, whole)
    )


@LAYOUTS
def test_checkpointing_changes_neither_gradients_nor_statistics(make, images, share):
    model = make(share_attention=share, drop_path_rate=0.2, proj_drop_rate=0.1).train()
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    for each in (model, other):
        torch.manual_seed(3)
        for _ in range(2):
            each(images).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for name, buffer in statistics(model).items():
        torch.testing.assert_close(other.get_buffer(name), buffer)


def test_checkpointing_with_intermediates_and_in_evaluation(make, images):
    model = make()
    expected = model.forward_intermediates(images, intermediates_only=True)
    model.set_grad_checkpointing()
    for ours, reference in zip(
        model.forward_intermediates(images, intermediates_only=True), expected, strict=True
    ):
        torch.testing.assert_close(ours, reference)


@pytest.fixture
def one_thread():
    """Layers this small gain nothing from a second thread, and lose much to a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_short_training_reads_held_out_digits(one_thread):
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]
    model = Refiner(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=48,
        depth=4,
        num_heads=4,
        token_mixing=True,
    )
    epochs, batch = 5, 50
    steps = epochs * len(train) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in train[torch.randperm(len(train))].split(batch):
            loss = dense_supervision_loss(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
    assert accuracy > 0.95
