from .catalogue import ALIASES as ALIASES
from .catalogue import search as search
from .families import describe as describe
from .families import name_apart as name_apart
from .families import resolve as resolve
from .layers import find_layers as find_layers
from .subject import Subject as Subject
