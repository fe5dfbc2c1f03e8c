"""What the code of a model may change of the process it runs in: looked at, compared and put back.

A forward pass may set a generator, switch an attention kernel off, enter autocast. Done one after the other,
passes undo what they did. Passes that take turns undo it in another order, and what is left over then changes
numbers, here and in the caller's program.
"""

from __future__ import annotations

import ctypes
import platform
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
Settings = Mapping[str, Setting]
"""Name of a setting -> how it is read, and how it is set to what was read."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc (malloc.h): how much free memory it keeps, and from which size on a block is mapped by itself."""


def settings(device: torch.device) -> Settings:
    """Return what forward passes on a device may change, generators and gradients included."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    found: dict[str, Setting] = {
        "torch's generator": (torch.get_rng_state, torch.set_rng_state),
        "Python's generator": (random.getstate, random.setstate),
        "NumPy's generator": (np.random.get_state, np.random.set_state),
        "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        # Set back by the guard in `preserved`, since no function sets it.
        "inference mode": (torch.is_inference_mode_enabled, lambda _: None),
        "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        "the filters of warnings": (_warnings, _set_warnings),
        "the default type": (torch.get_default_dtype, torch.set_default_dtype),
        "the number of threads": (torch.get_num_threads, torch.set_num_threads),
        "deterministic algorithms": (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda held: torch.use_deterministic_algorithms(held[0], warn_only=held[1]),
        ),
        "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        "memory-efficient attention": (
            cuda.mem_efficient_sdp_enabled,
            cuda.enable_mem_efficient_sdp,
        ),
        "plain attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
        "cuDNN attention": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
        # Before its parts, which it sets too.
        "float32 of matrix products": (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        "oneDNN": _attribute(torch.backends.mkldnn, "enabled"),
        **{name: _attribute(place, "fp32_precision") for name, place in _float32_places().items()},
        "cuDNN": _attribute(cudnn, "enabled"),
        "cuDNN's choice of algorithms": _attribute(cudnn, "benchmark"),
        "cuDNN's determinism": _attribute(cudnn, "deterministic"),
    }
    for kind in dict.fromkeys(("cpu", device.type)):
        found[f"autocast on {kind}"] = _autocast(kind)
    if device.type == "cuda" and torch.cuda.is_available():
        found["the GPU's generator"] = (
            lambda: torch.cuda.get_rng_state(device),
            lambda state: torch.cuda.set_rng_state(state, device),
        )
    elif device.type == "mps":
        found["the GPU's generator"] = (torch.mps.get_rng_state, torch.mps.set_rng_state)
    return found


def exact_products() -> None:
    """Have float32 multiplied and convolved with all its bits: no TF32 on GPUs, no bfloat16 on CPUs."""
    for place in _float32_places().values():
        place.fp32_precision = "ieee"


def read(of: Settings) -> dict[str, Any]:
    """Return what the settings are now."""
    return {name: getter() for name, (getter, _) in of.items()}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ."""
    return [name for name, value in before.items() if not _equal(value, after[name])]


@contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """Put every setting back on leaving, whatever happened inside."""
    of = settings(device)
    before = read(of)
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    try:
        # Entering inference mode, also as it is, turns gradients on or off.
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            yield
    finally:
        # Only what changed: a setter may warn, or be refused where the machine lacks what it sets.
        for name in changed(before, read(of)):
            of[name][1](before[name])


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Have the C library keep what layers free for the next to take, and give it back to the system on leaving.

    By itself glibc gives large blocks back at once, and the next layer's output lies in pages that the system
    first makes and fills with zeros: a third of the time of ResNet-50's passes. Other libraries are left alone.
    """
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if libc is None:
        yield
        return
    for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        libc.mallopt(threshold, 2**31 - 1)
    try:
        yield
    finally:
        # What glibc's own adaptation comes to where large blocks are freed; what it was cannot be asked.
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def seed(run: int, batch: int, device: torch.device) -> None:
    """Seed the generators for one batch: a model that draws from them then draws the same whatever came before.

    Args:
        run: seed of the run.
        batch: number of the batch.
        device: whose generator is seeded beside the CPU's; torch's own function would seed every GPU.
    """
    number = run * 1_000_003 + batch
    torch.default_generator.manual_seed(number % 2**63)
    if device.type == "cuda":
        torch.cuda.manual_seed(number % 2**63)
    elif device.type == "mps":
        torch.mps.manual_seed(number % 2**63)
    random.seed(number)
    np.random.seed(number % 2**32)


def _warnings() -> tuple[Any, ...]:
    """Return the list of filters itself, which other code may hold, what is in it, and who shows warnings."""
    return warnings.filters, tuple(warnings.filters), warnings.showwarning


def _set_warnings(held: tuple[Any, ...]) -> None:
    filters, entries, show = held
    warnings.filters = filters
    warnings.resetwarnings()  # else what was shown or not is remembered by module
    filters.extend(entries)
    warnings.showwarning = show


def _float32_places() -> dict[str, Any]:
    """Return what says with how many bits float32 is multiplied."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    return {
        "float32 of products on the CPU": mkldnn.matmul,  # type: ignore[attr-defined]
        "float32 of convolutions on the CPU": mkldnn.conv,  # type: ignore[attr-defined]
        "float32 of products": cuda.matmul,
        "float32 of convolutions": cudnn.conv,  # type: ignore[attr-defined]
    }


def _attribute(of: Any, name: str) -> Setting:
    return lambda: getattr(of, name), lambda value: setattr(of, name, value)


def _autocast(kind: str) -> Setting:
    def get() -> tuple[bool, torch.dtype, bool]:
        enabled = torch.is_autocast_enabled(kind)
        return enabled, torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()

    def put(held: tuple[bool, torch.dtype, bool]) -> None:
        torch.set_autocast_enabled(kind, held[0])
        torch.set_autocast_dtype(kind, held[1])
        torch.set_autocast_cache_enabled(held[2])

    return get, put


def _equal(one: Any, other: Any) -> bool:
    """Compare states, in which tensors and arrays may lie inside tuples."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
