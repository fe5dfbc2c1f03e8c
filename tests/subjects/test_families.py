"""The blocks of networks of every family, against a table that was written down by reading their sources."""

import sys
from collections import Counter

import pytest
import torch

from refiner_cka.subjects import find_layers
from refiner_cka.subjects.hooks import capture
from refiner_cka.subjects.readout import tensor_of
from tests.zoo import NETWORKS, Network


def of_each(networks=NETWORKS):
    """Return the networks as parameters, those that `make test` leaves to `make test-all` marked as such."""
    return [
        pytest.param(one, id=one.name, marks=() if one.sampled else pytest.mark.whole)
        for one in networks
    ]


@pytest.mark.parametrize("network", of_each())
def test_blocks(network: Network):
    module = network.build("meta")
    blocks = find_layers(module, "block")
    assert len(set(blocks)) == network.blocks
    assert not any(inner.startswith(f"{outer}.") for outer in blocks for inner in blocks)

    outputs = outputs_of(module, blocks, network)
    assert (next(iter(outputs)), list(outputs)[-1]) == (network.first, network.last)
    # Kept alive, two tensors are one only if they are the same object.
    tensors = [tensor for found in outputs.values() for tensor in found]
    repeated = [path for path, found in outputs.items() if len(found) > 1]
    assert not repeated
    assert (len({id(tensor) for tensor in tensors}) < len(tensors)) == bool(network.remedy)
    if network.remedy:
        left = outputs_of(module, find_layers(module, network.remedy), network).values()
        assert len({id(tensor) for (tensor,) in left}) == len(left) > 3


def outputs_of(module, paths, network):
    """Return what layers return in one pass on the meta device, in the order of the calls."""
    outputs = {}

    def visit(path, output):
        outputs.setdefault(path, []).append(tensor_of(output, images=2))

    with capture(module, paths, visit), torch.no_grad():
        module(torch.zeros(2, *network.input_size, device="meta"))
    assert all(one.shape[0] == 2 for found in outputs.values() for one in found)
    return outputs


def test_the_table_has_every_module_of_timm():
    import timm

    listed = Counter(one.module for one in NETWORKS if one.library == "timm")
    # Other tests may have registered this package's own networks.
    timms = {one for one in timm.list_modules() if f"timm.models.{one}" in sys.modules}
    assert timms <= listed.keys()
