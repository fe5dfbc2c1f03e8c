"""Analyses on fake `cuda` tensors, and what they dispatch: real models, no GPU."""

import collections
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refiner_cka.analysis.run import Measurement
from refiner_cka.analysis.runtime import Runtime
from refiner_cka.images import Batch

CUDA = torch.device("cuda", 0)

_NO_KERNEL = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "detach",
    "_unsafe_view",
    "device",
}


class Dispatched(TorchDispatchMode):
    """Counts what is dispatched on cuda tensors, and fails on any copy from there to the CPU.

    Views and memory that is only reserved start no kernel. Most other operations start one; a few, such as sorting
    or a product whose sum is split, start several, so this is a lower bound that grows with what it bounds.

    Attributes:
        launches: how many operations of each name.
        traffic: the bytes that they read and write, if nothing stays in a cache between two.
        copies: the bytes of each copy to the device.
    """

    def __init__(self):
        super().__init__()
        self.launches = collections.Counter()
        self.traffic = 0
        self.copies = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = (
            [value for value in tree_leaves(tree) if isinstance(value, torch.Tensor)]
            for tree in ((args, kwargs), result)
        )
        name = func._schema.name.partition("::")[2]
        from_cuda, to_cuda = (
            any(value.device.type == "cuda" for value in values) for values in (given, made)
        )
        if name in ("_to_copy", "copy_") and to_cuda:
            self.copies += [value.nbytes for value in given if value.device.type == "cpu"]
        assert to_cuda or not (from_cuda and made), f"{func} waits for the device"
        if (to_cuda or from_cuda) and not func.is_view and name not in _NO_KERNEL:
            self.launches[name] += 1
            written = [id(kwargs["out"])] if kwargs and "out" in kwargs else []
            read = [value for value in given if id(value) not in written]
            self.traffic += sum(value.nbytes for value in (*read, *made))
        return result


def fake_module(module):
    """Replace parameters and buffers by fake cuda tensors."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                part._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
    return module


@contextmanager
def measurement(analysis, precision="fp32"):
    """The measurement of an analysis prepared on the CPU, moved to fake cuda."""
    object.__setattr__(analysis, "runtime", Runtime(CUDA, precision))
    for meter in analysis.meters:
        object.__setattr__(meter.setting, "device", CUDA)
    # The session outside: it reads the generators, which fake tensors do not have.
    with analysis.runtime.session(), FakeTensorMode(allow_non_fake_inputs=True):
        for model in analysis.models:
            fake_module(model.subject.module).eval()
        yield Measurement(analysis)


def batch(analysis, index):
    """A batch of an analysis, of pixels that are all 0."""
    count = len(analysis.plan.batches[index])
    way = analysis.models[0].subject.preprocessing
    return Batch(
        index,
        np.arange(count) + index * analysis.plan.batch_size,
        {way: torch.zeros(count, *way.input_size, dtype=torch.uint8)},
        torch.zeros(count, dtype=torch.int64),
        (),
        {way: bytes(32)},
        np.ones(count, np.uint64),
    )
