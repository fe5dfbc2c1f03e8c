"""Subjects: the models of an analysis, from a name, a checkpoint or any `nn.Module`."""

from .catalogue import ALIASES, search
from .describing import describe
from .layers import find_layers
from .resolving import name_apart, resolve
from .subject import Subject

__all__ = ["ALIASES", "Subject", "describe", "find_layers", "name_apart", "resolve", "search"]
