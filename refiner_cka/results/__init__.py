"""What came out: results, their files, and tables that other programs read."""

from .atomic import check_writable as check_writable
from .hdf5 import load as load
from .hdf5 import save as save
from .statistics import Normalize as Normalize
from .tables import WRITERS as WRITERS
from .tables import export as export

__all__ = ["WRITERS", "Normalize", "check_writable", "export", "load", "save"]
