"""The loop on fake `cuda` tensors: real models, no GPU.

A fake tensor raises when tensors of two devices meet, and when a number is asked of it; the dispatch mode here
fails on copies from the device, which would wait for it.
"""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import refiner_cka as rc
from refiner_cka.analysis.run import Measurement
from refiner_cka.analysis.runtime import Runtime
from refiner_cka.images import Batch
from refiner_cka.images.preprocessing import Preprocessing

CUDA = torch.device("cuda", 0)
INPUT = Preprocessing(input_size=(3, 32, 32))


class NoCopyFromDevice(TorchDispatchMode):
    """Fails on any copy from cuda to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sources = [value for value in args if isinstance(value, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.device.type == "cpu":
            assert all(value.device.type == "cpu" for value in sources), (
                f"{func} waits for the device"
            )
        return result


def fake_module(module, mode):
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


def prepared(module, layers, **options):
    """An analysis prepared on the CPU, then moved to fake cuda."""
    images = torch.randint(0, 256, (48, 32, 32, 3), dtype=torch.uint8)
    classes = tuple(str(index) for index in range(10))
    subjects = [
        rc.Subject.from_module(
            copy.deepcopy(module), layers, name=name, preprocessing=INPUT, classes=classes
        )
        for name in ("first", "second")
    ]
    return rc.prepare(subjects, images, batch_size=20, workers=0, device="cpu", **options)


@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
@pytest.mark.parametrize(
    ("name", "layers", "tokens", "attention"),
    [
        ("test_vit", "block", "all,cls,mean", True),
        ("test_vit", "all", "all", False),
        ("test_resnet", "block", "all,mean", False),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [16, 5])
def test_the_loop_neither_mixes_devices_nor_waits(
    name, layers, tokens, attention, precision, chunk
):
    arguments = {"img_size": 32, "depth": 2} if "vit" in name else {}
    analysis = prepared(
        timm.create_model(name, num_classes=10, **arguments),
        layers,
        tokens=tokens,
        smoothing="all" if attention else None,
        attention=attention,
        index="cka-cosine,cka-rbf,rsa,knn" if attention else "cka",
    )
    object.__setattr__(analysis, "runtime", Runtime(CUDA, precision))
    object.__setattr__(analysis.models[0], "classes", tuple(range(10)))
    for meter in analysis.meters:
        object.__setattr__(meter.setting, "device", CUDA)
    # The session outside: it reads the generators, which fake tensors do not have.
    with analysis.runtime.session(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for model in analysis.models:
            fake_module(model.subject.module, mode).eval()
        measurement = Measurement(analysis)
        for passes in measurement._passes:
            passes._chunk = min(chunk, passes._chunk)
        with NoCopyFromDevice():
            for index in (0, 1, 2):
                count = len(analysis.plan.batches[index])
                measurement.add(
                    Batch(
                        index,
                        np.arange(count) + index * analysis.plan.batch_size,
                        {INPUT: torch.zeros(count, 3, 32, 32, dtype=torch.uint8)},
                        torch.zeros(count, dtype=torch.int64),
                        (),
                        {INPUT: bytes(32)},
                        np.ones(count, np.uint64),
                    )
                )
    state = measurement.state
    assert state.device == CUDA
    assert state.batches == {0, 1, 2}


def test_the_guard_sees_a_copy_from_the_device():
    with FakeTensorMode(), NoCopyFromDevice():
        value = torch.zeros(3, device=CUDA)
        with pytest.raises(AssertionError, match="waits for the device"):
            value.cpu()
