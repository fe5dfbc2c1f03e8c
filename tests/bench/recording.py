"""What benchmarks make of their times, and where they write them: a JSON file each, with machine and versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

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


def another(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of a run's values, and between what the median of another such run lies with 95 %.

    On the logarithmic scale, by Student's quantile: of n normal values the median has at most pi / 2n of the
    variance of one, and two runs have twice that between them. NaN for a single value.
    """
    logs = np.log(values)
    middle, several = np.median(logs), len(logs) > 1
    spread = logs.std(ddof=1) if several else np.nan
    reach = stats.t.ppf(0.975, len(logs) - 1) * spread * np.sqrt(np.pi / len(logs))
    low, centre, high = np.exp([middle - reach, middle, middle + reach]).tolist()
    return low, centre, high


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
