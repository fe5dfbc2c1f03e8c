"""Train several seeds of each embedded network, for `make replicates`; what was trained already is kept.

python docs/replicates.py results/replicates

writes results/replicates/seed0/vit_nano.safetensors and so on: seeds 0, 1 and 2 of the four networks, by the
recipe of notebook 5 in a third of its epochs. As many are trained at once as there are cores, each on one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch

import refiner_cka as rc
from refiner_cka.training import Epoch

CHAINS = (("refiner_nano",), ("resnet_nano", "deit_nano"), ("vit_nano",))
"""Networks that one process trains, the longest first; in a chain each is the teacher of the next."""


def train_chain(
    folder: Path, chain: Sequence[str], seed: int, epochs: int, data: str = "digits-train"
) -> None:
    """Train the networks of a chain that have no file yet, and print how it goes."""
    # Layers this small gain nothing from more threads, and with one the sums keep their order.
    torch.set_num_threads(1)
    teacher = None
    for name in chain:
        file = folder / f"seed{seed}" / f"{name}.safetensors"
        if file.exists():
            print(f"{file}: there already", flush=True)
        else:
            trained = rc.train(
                f"{name}=random",
                data,
                teacher=teacher,
                recipe=rc.Recipe(epochs=epochs),
                seed=seed,
                device="cpu",
                progress=partial(_tell, f"seed {seed}: {name}"),
            )
            rc.save_weights(trained.subject, file)
        teacher = f"{name}={file}"


def _tell(of: str, epoch: Epoch) -> None:
    """Print every tenth epoch, and the last."""
    if epoch.number % 10 == 0 or epoch.number == epoch.of:
        print(f"{of}: {epoch}", flush=True)


def main() -> None:
    """Train what is missing, and say what was."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    wanted = [(chain, seed) for chain in CHAINS for seed in given.seeds]
    workers = min(len(wanted), os.cpu_count() or 1)
    print(f"{len(wanted)} trainings of {given.epochs} epochs, {workers} at once", flush=True)
    # A forked process would inherit the threads of torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = [
            pool.submit(train_chain, given.folder, chain, seed, given.epochs)
            for chain, seed in wanted
        ]
        for done in as_completed(running):
            done.result()


if __name__ == "__main__":
    main()
