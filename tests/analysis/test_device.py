"""The loop on fake `cuda` tensors: real models, no GPU.

A fake tensor raises when tensors of two devices meet, and when a number is asked of it; the dispatch mode here
fails on copies from the device, which would wait for it.
"""

import copy

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
from tests.analysis import fake_cuda
from tests.analysis.fake_cuda import CUDA, Dispatched

INPUT = Preprocessing(input_size=(3, 32, 32))


def prepared(module, layers, **options):
    """An analysis prepared on the CPU."""
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
    object.__setattr__(analysis.models[0], "classes", tuple(range(10)))
    with fake_cuda.measurement(analysis, precision) as measurement:
        for passes in measurement._passes:
            passes._chunk = min(chunk, passes._chunk)
        with Dispatched():
            for index in (0, 1, 2):
                measurement.add(fake_cuda.batch(analysis, index))
    state = measurement.state
    assert state.device == CUDA
    assert state.batches == {0, 1, 2}


def test_the_guard_sees_a_copy_from_the_device():
    with FakeTensorMode(), Dispatched():
        value = torch.zeros(3, device=CUDA)
        with pytest.raises(AssertionError, match="waits for the device"):
            value.cpu()
