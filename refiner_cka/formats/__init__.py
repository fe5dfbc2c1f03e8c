"""Results as files: `save` and `load` for HDF5, `export` for tables that other programs read."""

from ..atomic import check_writable as check_writable
from .hdf5 import load as load
from .hdf5 import save as save
from .tables import WRITERS as WRITERS
from .tables import export as export

__all__ = ["WRITERS", "check_writable", "export", "load", "save"]
