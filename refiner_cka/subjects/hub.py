"""Published weights: whether there are any, whether they are cached here, and whether the hub can be reached.

The cache is asked first, so that cached weights need no network. Without a network the hub's own
client retries for most of a minute; one quick request before it decides.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import torch

from ..errors import ModelError

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_PATIENCE = 5.0  # seconds for the hub to answer at all


def located(name: str) -> str:
    """Return where a model with a source is: `local-dir:` of a repository that is cached whole.

    Raises:
        ModelError: it is not cached and the hub is out of reach, or the folder holds no model.
    """
    source, _, location = name.partition(":")
    if source == "local-dir":
        if not (Path(location) / "config.json").is_file():
            raise ModelError(
                f"{location} holds no config.json: name the folder of a saved timm model"
            )
        return name
    config = _cached_file(location, "config.json")
    if config and any((config.parent / weights).exists() for weights in _WEIGHT_FILES):
        return f"local-dir:{config.parent}"
    _check_reachable(name, "", f"local-dir:FOLDER of a copy of {location}")
    return name


def published(given: str, name: str) -> Path | None:
    """Return the file of a timm model's pretrained weights, in a package or cached; `None` if it can be fetched.

    Args:
        given: the name as the user wrote it, for messages.
        name: timm's name.

    Raises:
        ModelError: no weights are published, or they are not cached and the hub is out of reach.
    """
    from timm.models import get_pretrained_cfg

    ways = f"a file ({given}=FILE) or untrained weights ({given}=random)"
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        reason = f"timm has no pretrained weights for {given}"
        if name.startswith("refiner"):
            published_ones = "only Refiner-L at 448 is on its authors' release page"
            reason = f"{given} has no published weights to fetch ({published_ones})"
        raise ModelError(f"{reason}: give {ways}")
    if config.file:
        return Path(config.file)
    repository = config.hf_hub_id or ""
    url = "" if repository else str(config.url)
    if url:
        files = [Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name]
    else:
        names = [config.hf_hub_filename] if config.hf_hub_filename else _WEIGHT_FILES
        files = [file for name in names if (file := _cached_file(repository, name))]
    file = next(filter(Path.is_file, files), None)
    if file is None:
        _check_reachable(given, url, ways)
    return file


def _cached_file(repository: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    identifier, _, revision = repository.partition("@")
    found = try_to_load_from_cache(identifier, filename, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def _check_reachable(given: str, url: str, ways: str) -> None:
    """Refuse, naming the ways out, if the hub (or a URL's host) gives no answer at all."""
    from huggingface_hub import constants, get_session

    address = url or constants.ENDPOINT
    try:
        get_session().head(address, timeout=_PATIENCE)
    except Exception as error:
        # The client's errors differ between its versions; each means that no answer came.
        raise ModelError(
            f"{given}'s pretrained weights are not cached and {urlsplit(address).netloc} cannot be "
            f"reached: give {ways}, or set HF_HOME to a Hugging Face cache filled elsewhere"
        ) from error
