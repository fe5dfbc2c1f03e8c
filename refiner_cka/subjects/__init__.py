"""Subjects: the models of an analysis, from a name, a checkpoint or any `nn.Module`."""

from .catalogue import ALIASES, search
from .families import describe, name_apart, resolve
from .layers import find_layers
from .subject import Subject

__all__ = ["ALIASES", "Subject", "describe", "find_layers", "name_apart", "resolve", "search"]
