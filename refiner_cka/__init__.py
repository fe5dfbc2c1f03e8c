"""How a network's representations change with depth: minibatch CKA, over-smoothing, figures.

    import refiner_cka as rc
    result = rc.analyze(["deit_s", "resnet50"], "val/")
    result.curve("deit_s").values

Names are imported when they are first used, so that looking at a saved result needs neither torch nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import formats as formats
    from . import plots as plots
    from . import subjects as subjects
    from .engine import Interrupted as Interrupted
    from .engine import analyze as analyze
    from .engine import measure as measure
    from .errors import AnalysisWarning as AnalysisWarning
    from .errors import CheckpointError as CheckpointError
    from .errors import DataError as DataError
    from .errors import DeviceError as DeviceError
    from .errors import LayerError as LayerError
    from .errors import ModelError as ModelError
    from .errors import RefinerCkaError as RefinerCkaError
    from .errors import ResultError as ResultError
    from .errors import ResultFileError as ResultFileError
    from .formats import load as load
    from .maps import token_maps as token_maps
    from .minibatch import cka as cka
    from .preparation import Analysis as Analysis
    from .preparation import prepare as prepare
    from .preprocessing import Preprocessing as Preprocessing
    from .result import Result as Result
    from .result import merge as merge
    from .subjects import Subject as Subject
    from .summary import summarize as summarize
    from .training import Augmentation as Augmentation
    from .training import Recipe as Recipe
    from .training import accuracy as accuracy
    from .training import save_weights as save_weights
    from .training import train as train

_HOME = {
    "Analysis": "preparation",
    "Augmentation": "training",
    "AnalysisWarning": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DeviceError": "errors",
    "Interrupted": "engine",
    "LayerError": "errors",
    "ModelError": "errors",
    "Preprocessing": "preprocessing",
    "Recipe": "training",
    "RefinerCkaError": "errors",
    "Result": "result",
    "ResultError": "errors",
    "ResultFileError": "errors",
    "Subject": "subjects",
    "accuracy": "training",
    "analyze": "engine",
    "cka": "minibatch",
    "load": "formats",
    "measure": "engine",
    "merge": "result",
    "prepare": "preparation",
    "save_weights": "training",
    "summarize": "summary",
    "token_maps": "maps",
    "train": "training",
}
"""Public name -> the module that defines it."""

_MODULES = ("formats", "plots", "subjects")
"""Public modules."""

__version__ = "0.1.0"
__all__ = sorted((*_HOME, *_MODULES))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
