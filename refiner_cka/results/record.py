"""What a run recorded about itself, read with suspicion: a file may say anything, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import printable
from .result import Result

UNKNOWN = "not recorded"


class Record:
    """The provenance of a result, each entry of the type that it should have and in printable text.

    Args:
        result: of which the provenance is.
    """

    def __init__(self, result: Result) -> None:
        self._of = dictionary(dict(result.provenance))
        self._models = {
            text(model.get("name")): model for model in dictionaries(self._of.get("models"))
        }

    def text(self, key: str, default: str = UNKNOWN) -> str:
        """Return an entry as text."""
        return text(self._of.get(key), default)

    def entry(self, key: str) -> Mapping[str, Any]:
        """Return an entry that has entries of its own; empty if there is none."""
        return dictionary(self._of.get(key))

    def names(self, key: str) -> list[str]:
        """Return an entry that lists names."""
        found = self._of.get(key)
        return [text(each) for each in found] if isinstance(found, list) else []

    def count(self, key: str) -> int:
        """Return an entry that counts something; 0 if there is none."""
        found = self._of.get(key)
        return found if isinstance(found, int) else 0

    def version(self, package: str) -> str:
        """Return the version of a package that the run was made with."""
        return text(self.entry("versions").get(package))

    def origin(self, model: str) -> Mapping[str, Any]:
        """Return what is known of a model's weights."""
        return dictionary(self._models.get(model, {}).get("origin"))

    def architecture(self, model: str, default: str = UNKNOWN) -> str:
        """Return the name of a model's architecture, with timm's tag only where the weights are of that tag."""
        name, weights = (text(self.origin(model).get(key), "") for key in ("model", "weights"))
        # Classes have capitals, factories a colon, and dots that are no tags.
        is_tagged = name == name.lower() and ":" not in name and weights != "pretrained"
        return (name.partition(".")[0] if is_tagged else name) or default

    def preprocessing(self, model: str) -> Mapping[str, Any]:
        """Return what becomes of an image before a model is given it."""
        return dictionary(self._models.get(model, {}).get("preprocessing"))

    def prefixes(self, model: str) -> list[int]:
        """Return how many prefix tokens the layers of a model have that have tokens in a sequence, ascending."""
        layers = self._models.get(model, {}).get("layers")
        found = set()
        for layer in layers if isinstance(layers, list) else []:
            layout = dictionary(layer[-1]) if isinstance(layer, list) and layer else {}
            if layout.get("format") == "nlc" and isinstance(layout.get("prefix_tokens"), int):
                found.add(layout["prefix_tokens"])
        return sorted(found)

    def is_refiner(self, model: str) -> bool:
        """Whether a model is a Refiner by the name of its architecture."""
        return self.architecture(model).startswith("refiner_")


def text(value: Any, default: str = UNKNOWN) -> str:
    """Return a value as printable text; `default` where there is none."""
    return default if value in (None, "") else printable(str(value))


def dictionary(value: Any) -> dict[str, Any]:
    """Return a value that is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def dictionaries(value: Any) -> list[dict[str, Any]]:
    """Return the dictionaries of a value that is a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
