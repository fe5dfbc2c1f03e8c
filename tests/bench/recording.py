"""Where benchmarks write what they measured: a JSON file each, with the machine and the versions it is of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

FOLDER = Path("results") / "bench"
PACKAGES = ("refiner-cka", "torch", "timm", "numpy", "pytorch-cka", "cka-pytorch", "torch-cka")


def machine() -> dict[str, str]:
    """What figures depend on: processor, cores and threads, the GPU if there is one, the versions of what ran."""
    has_gpu = torch.cuda.is_available()
    return {
        **({"GPU": torch.cuda.get_device_name(), "CUDA": torch.version.cuda} if has_gpu else {}),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := installed(package))},
    }


def installed(package: str) -> str | None:
    """The version of a package; `None` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def record(name: str, rows: list[Mapping[str, Any]]) -> None:
    """Write a benchmark's rows below the working directory, and print where, and on what they were measured."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(f"\n{', '.join(f'{what} {found}' for what, found in machine().items())}; wrote {path}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
