"""Which similarity index finds the matching layer of another training, for `make matching`.

python docs/matching.py results/matching

trains four seeds of networks of 8 blocks on the embedded digits, where that was not done already.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

import refiner_cka as rc
from refiner_cka.training import Epoch

NETWORKS = {"vit_nano": "depth=8", "resnet_nano": "layers=(2,2,2,2)"}
"""Networks of the package -> arguments that make 8 blocks of their 12."""


def train(
    folder: Path, name: str, arguments: str, seed: int, epochs: int, data: str = "digits-train"
) -> None:
    """Train one network with one seed if it has no file yet, and print how it went."""
    file = folder / name / f"seed{seed}.safetensors"
    if file.exists():
        print(f"{file}: there already", flush=True)
        return
    # Layers this small gain nothing from more threads, and with one the sums keep their order.
    torch.set_num_threads(1)
    trained = rc.train(
        f"{name}=random,{arguments}",
        data,
        held_out="digits-test",
        recipe=rc.Recipe(epochs=epochs),
        seed=seed,
        device="cpu",
        progress=partial(_tell, f"{name}, seed {seed}", epochs),
    )
    rc.save_weights(trained.subject, file)


def _tell(of: str, last: int, epoch: Epoch) -> None:
    """Print the last epoch."""
    if epoch.number == last:
        print(f"{of}: {epoch}", flush=True)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    for name, arguments in NETWORKS.items():
        for seed in given.seeds:
            train(given.folder, name, arguments, seed, given.epochs)


if __name__ == "__main__":
    main()
