"""What came out: results, their files, and tables that other programs read."""

from .atomic import check_writable as check_writable
from .bibliography import citation as citation
from .differing import Compared as Compared
from .differing import Diff as Diff
from .differing import Difference as Difference
from .estimate import Estimate as Estimate
from .jackknife import MIN_FOLDS as MIN_FOLDS
from .merging import differences as differences
from .methods import answers as answers
from .methods import bibtex as bibtex
from .methods import paragraph as paragraph
from .result import Result
from .statistics import Normalize as Normalize
from .tables import WRITERS as WRITERS
from .tables import export as export

load = Result.load
save = Result.save
