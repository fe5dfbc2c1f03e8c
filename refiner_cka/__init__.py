"""How a network's representations change with depth: minibatch CKA, over-smoothing, figures.

    import refiner_cka as rc
    result = rc.analyze(["deit_s", "resnet50"], "val/")
    result.curve("deit_s").values

The public names stand in `__init__.pyi`. They are imported when they are first used, so that looking at a saved
result needs neither torch nor timm.
"""

from importlib.metadata import version as _version

import lazy_loader

__version__ = _version("refiner-cka")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
