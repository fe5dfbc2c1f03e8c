"""Subjects: the models of an analysis, from a name, a checkpoint or any `nn.Module`.

The public names stand in `__init__.pyi`. They are imported when they are first used, so that the aliases need
neither torch nor timm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
