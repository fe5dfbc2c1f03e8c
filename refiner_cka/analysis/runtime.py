"""Where and how an analysis runs: device, precision, processes, memory."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import DeviceError
from ..options import Precision
from . import process, together

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """One process of an analysis.

    Attributes:
        device: where models run.
        precision: of the forward pass; CKA itself is always float32 Grams and float64 sums.
        rank: this process among the processes of the run.
        world: number of processes.
    """

    device: torch.device
    precision: Precision = "fp32"
    rank: int = 0
    world: int = 1

    @property
    def pin_memory(self) -> bool:
        """Whether images should be loaded to page-locked memory, so that copying them does not wait."""
        return self.device.type == "cuda"

    def wait_for_all(self) -> None:
        """Wait until all processes of the run are here.

        Raises:
            ProcessError: one of them ended.
        """
        together.Together(self.world).wait()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Forward passes inside run without gradients, at this precision, float32 being float32.

        TF32, which PyTorch allows for convolutions by default, keeps ten bits of a number, and bfloat16, which a
        caller may have allowed for products on a CPU, seven: both are off here, and so is a caller's autocast.
        Whatever models change of the process is as before afterwards (see `process`).
        No inference mode, also not the caller's: code that leaves it cannot write to the tensors made in it.
        """
        with process.preserved(self.device), ExitStack() as stack:
            process.exact_products()
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            if self.precision == "fp32":
                torch.set_autocast_enabled(self.device.type, False)
            else:
                half = torch.autocast(self.device.type, dtype=_DTYPES[self.precision])
                stack.enter_context(half)
            yield

    @contextmanager
    def hosting(self, module: nn.Module) -> Iterator[None]:
        """Have the model on the device and in evaluation mode; afterwards where and as it was."""
        modes = [(part, part.training) for part in module.modules()]
        state = itertools.chain(module.parameters(), module.buffers())
        home = next((value.device for value in state), self.device)
        try:
            module.to(self.device)
            module.eval()
            yield
        finally:
            for part, training in modes:
                part.training = training
            module.to(home)


def detect(device: str | None, precision: str) -> Runtime:
    """Return the runtime for this process, joining the process group when started by `torchrun`.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`; by default the first of cuda, mps and cpu that is there. One
            of several processes takes the GPU of its local rank.
        precision: `fp32`, `bf16` or `fp16`.

    Raises:
        DeviceError: this machine has no such device, or the device no such precision.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device)
    if world > 1 and chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    _check_precision(chosen, precision)
    if world == 1:
        return Runtime(chosen, precision)  # type: ignore[arg-type]  # checked above
    return Runtime(chosen, precision, together.join(), world)  # type: ignore[arg-type]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the CPU, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _device(name: str | None) -> torch.device:
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    available = [*gpus, *mps, "cpu"]
    if name is None:
        return torch.device(available[0].partition(":")[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"unknown device {name!r}; this machine has {', '.join(available)}"
        ) from None
    if str(device) not in {*available, *(entry.partition(":")[0] for entry in available)}:
        raise DeviceError(f"this machine has no device {name!r}; it has {', '.join(available)}")
    return device


def _check_precision(device: torch.device, precision: str) -> None:
    if precision not in _DTYPES:
        raise DeviceError(f"unknown precision {precision!r}; choose one of {', '.join(_DTYPES)}")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("this GPU cannot compute in bf16; use --precision fp16 or fp32")


def memory_of(device: torch.device) -> float:
    """Return the bytes of memory that a device has in all; infinite where that cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")  # a Mac's GPU shares them
    if not all(name in getattr(os, "sysconf_names", ()) for name in names):
        return math.inf
    return float(math.prod(map(os.sysconf, names)))


def release_memory(device: torch.device) -> None:
    """Give cached memory back to the device, so that the next attempt finds it in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
