"""One page that holds a result: figures to point at, tables and words, in a file that needs nothing else."""

from .page import html as html
from .page import save as save
