"""Fast evaluation is never stale: it follows every change of weights."""

import copy

import pytest
import torch
from torch import nn

from .conftest import LAYOUTS, close, plain


def step(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    model.eval()


def move_statistics(model):
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    model.eval()


def load(model):
    other = copy.deepcopy(model)
    step(other)
    model.load_state_dict(other.state_dict())


def edit_in_place(model):
    with torch.no_grad():
        model.blocks[1].attn.DLA.conv_exp.weight.mul_(1.5)


def edit_data(model):
    model.blocks[1].attn.DLA.bn3.weight.data.mul_(1.5)


def replace_data(model):
    norm = model.blocks[1].attn.adapt_bn
    norm.weight.data = norm.weight.data * 1.5


def replace_parameter(model):
    model.patch_embed.conv2.weight = nn.Parameter(model.patch_embed.conv2.weight * 1.5)


def edit_buffer(model):
    model.blocks[3].attn.DLA.bn2.running_var.data.mul_(2)


def edit_eps(model):
    model.blocks[3].attn.DLA.bn2.eps = 0.5


def add_biases(model):
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is None:
            conv.bias = nn.Parameter(torch.linspace(-0.5, 0.5, conv.out_channels))


def dilate(model):
    for conv in (model.patch_embed.conv2, model.blocks[1].attn.DLA.depth_sep_conv):
        conv.dilation = conv.padding = (2, 2)


def edit_through_numpy(model):
    model.blocks[1].attn.DLA.depth_sep_conv.weight.detach().numpy()[:] *= 1.5


def swap_average(model):
    averaged = copy.deepcopy(model)
    step(averaged)
    for parameter, average in zip(model.parameters(), averaged.parameters(), strict=True):
        parameter.data, average.data = average.data, parameter.data


def move_precision(model):
    edit_data(model.double())
    model.float()


@LAYOUTS
@pytest.mark.parametrize(
    "change",
    [
        step,
        move_statistics,
        load,
        edit_in_place,
        edit_data,
        replace_data,
        replace_parameter,
        edit_buffer,
        edit_eps,
        add_biases,
        dilate,
        edit_through_numpy,
        swap_average,
        move_precision,
    ],
)
def test_it_follows_every_change_of_weights(make, images, norms_called, change, share):
    model = make(share_attention=share)
    with torch.no_grad():
        before = model(images)
    change(model)
    with torch.no_grad(), norms_called() as called:
        after = model(images)
    assert called == []
    assert (after - before).abs().max() > 1e-5
    with torch.no_grad(), plain(model):
        close(after, model(images))
