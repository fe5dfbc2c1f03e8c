"""What loading costs: images per second and core, beside timm's loader, and where the time goes.

    python tests/bench/bench_loading.py [--rounds 7]
    python tests/bench/bench_loading.py --error    # what --fast-pixels changes in CKA
    python tests/bench/bench_loading.py --tiny     # few and small pictures, once: whether it runs

The pictures are JPEG files of noise of a seed, of the sizes in bytes that photographs have. Measured is processor
time, from files to uint8 batches of 64 at 224 x 224, which are normalised on the device, and without loading
processes. What these add, handing over, is in the second table. All loaders take turns in each round: printed are
medians, with their range. timm's loader serves one model, so it runs once for each; it is that of its evaluation
on a GPU.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from recording import record

import refiner_cka as rc
from refiner_cka.images import Batch, Preprocessing, load_batches, open_source, plan_batches
from refiner_cka.images.batches import _Sent, digests_of
from refiner_cka.images.decoding import decode

BATCH = 64
SIZES = {(500, 375): 96, (2000, 1500): 24}
"""Width and height of pictures -> how many."""
TINY = {(60, 45): 8}
DIFFERENT = 16
"""Pictures that differ; the files of the others are links to them."""

USUAL = Preprocessing()
HALF = (0.5, 0.5, 0.5)
MODELS = {
    "1 model": [USUAL],
    "3 models, one geometry": [
        USUAL,
        replace(USUAL, mean=HALF, std=HALF),
        replace(USUAL, mean=(0.0,) * 3, std=(1.0,) * 3),
    ],
    "3 models, three geometries": [
        USUAL,
        replace(USUAL, crop_pct=0.9),
        replace(USUAL, crop_pct=0.95),
    ],
}
ERROR_MODELS = (
    *("deit_tiny_patch16_224=random", "resnet18=random"),
    *("vit_nano", "deit_nano", "resnet_nano", "refiner_nano"),
)
ERROR_SIZES = ((500, 375), (1000, 750), (2000, 1500))
ERROR_PICTURES = 128


def photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG of noise whose octaves fall off as in photographs, the channels alike."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    side, strength = 4, 1.0
    while side <= min(width, height):
        coarse = rng.normal(size=(4, side, side * width // height)).astype(np.float32)
        fine = [
            np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC))
            for each in coarse
        ]
        total += strength * (fine[0][..., None] + 0.3 * np.stack(fine[1:], 2))
        side, strength = 2 * side, 0.75 * strength
    pixels = np.clip(128 + 55 * total / total.std(), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def folder_of(folder: Path, size: tuple[int, int], count: int, different: int) -> Path:
    """Write so many pictures into a folder."""
    folder.mkdir()
    for number in range(count):
        path, first = folder / f"{number}.jpg", folder / f"{number % different}.jpg"
        if number < different:
            path.write_bytes(photograph(*size, number))
        else:
            os.link(first, path)
    return folder


def ours(folder: Path, ways: Sequence[Preprocessing], workers: int, *, fast: bool = False) -> None:
    """Load all pictures for models of these preprocessings."""
    source = open_source(folder)
    plan = plan_batches(source, batch_size=BATCH, images=None, seed=0)
    wanted = range(len(plan.batches))
    for _ in load_batches(source, plan, wanted, ways, workers=workers, fast=fast):
        pass


def timms(folder: Path, ways: Sequence[Preprocessing], workers: int) -> None:
    """Load all pictures by timm, for one model after the other."""
    for way in ways:
        loader = create_loader(
            ImageDataset(str(folder), class_map={"": 0}),
            way.input_size,
            BATCH,
            interpolation=way.interpolation,
            mean=way.mean,
            std=way.std,
            crop_pct=way.crop_pct,
            num_workers=workers,
            pin_memory=False,
            persistent_workers=False,
            device=torch.device("cpu"),
        )
        for _ in loader.loader:  # what its prefetcher takes to the device
            pass


LOADERS: dict[str, Callable[[Path, Sequence[Preprocessing], int], None]] = {
    "refiner-cka": ours,
    "refiner-cka --fast-pixels": partial(ours, fast=True),
    "timm": timms,
}


def processor_time() -> float:
    """Seconds of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of each run, all of them once in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            before = processor_time()
            runs[name]()
            if number:
                times[name].append(processor_time() - before)
    return times


def rate(seconds: Sequence[float], images: int) -> str:
    """Images per second: the median, and the range."""
    low, middle, high = (
        images / each for each in (max(seconds), statistics.median(seconds), min(seconds))
    )
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def rates(folder: Path, what: str, count: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield what was measured of each number of models and each loader, in seconds for all pictures."""
    for models, ways in MODELS.items():
        runs = {name: partial(load, folder, ways, 0) for name, load in LOADERS.items()}
        for name, seconds in in_turn(runs, rounds).items():
            yield {"pictures": what, "models": models, "loader": name, "seconds": seconds}


def handed_over(batch: Batch) -> Batch | rc.DataError:
    """Send a batch through a pipe, as a loading process does."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with receiving, sending:
        thread = threading.Thread(target=lambda: sending.send(_Sent(batch)))
        thread.start()
        found = receiving.recv().item()
        thread.join()
    return found


def split(folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds per image of each step, for one model."""
    paths = [folder / f"{number}.jpg" for number in range(min(count, BATCH))]
    resize, crop, to_tensor = USUAL.transform().transforms
    fast = USUAL.transform(fast=True)
    files = [path.read_bytes() for path in paths]
    images = [decode(io.BytesIO(each)) for each in files]
    resized = [resize(image) for image in images]
    cropped = [crop(image) for image in resized]
    tensors = [to_tensor(image) for image in cropped]
    batch = torch.stack(tensors)
    source = open_source(folder)
    plan = plan_batches(source, batch_size=len(paths), images=None, seed=0)
    (loaded,) = load_batches(source, plan, [0], [USUAL], workers=0)
    small = [decode(io.BytesIO(each), USUAL.enough) for each in files]
    steps = {
        "read": lambda: [path.read_bytes() for path in paths],
        "decode": lambda: [decode(io.BytesIO(each)) for each in files],
        "decode, reduced": lambda: [decode(io.BytesIO(each), USUAL.enough) for each in files],
        "resize": lambda: [resize(image) for image in images],
        "resize and crop, fast": lambda: [fast(image) for image in small],
        "crop": lambda: [crop(image) for image in resized],
        "to tensor": lambda: [to_tensor(image) for image in cropped],
        "stack": lambda: torch.stack(tensors),
        "digest": lambda: digests_of(batch, None),
        "hand over": lambda: handed_over(loaded),
        "normalise": lambda: USUAL.normalize(batch),
    }
    return {
        name: [1000 * each / len(paths) for each in seconds]
        for name, seconds in in_turn(steps, rounds).items()
    }


def errors(folder: Path, what: str) -> Iterator[str]:
    """Yield a row for each model: what changes in its CKA."""
    for model in ERROR_MODELS:
        exact, fast = (
            rc.analyze(
                model,
                folder,
                smoothing="none",
                workers=2,
                device="cpu",
                fast_pixels=fast,
            )
            for fast in (False, True)
        )
        name = exact.models[0]
        change = np.abs(exact.cka(name) - fast.cka(name)).max()
        error = np.nanmax(exact.cka_se(name))
        yield f"| {what} | {model} | {change:.1e} | {error:.1e} |"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--error", action="store_true", help="what --fast-pixels changes in CKA")
    parser.add_argument("--tiny", action="store_true", help="few and small pictures, once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rounds = 1 if given.tiny else given.rounds
    with tempfile.TemporaryDirectory() as place:
        if given.error:
            print("| pictures | model | largest change of CKA | largest standard error |")
            print("|---|---|---|---|", flush=True)
            for size in ERROR_SIZES:
                what = "{} x {}".format(*size)
                for row in errors(
                    folder_of(Path(place) / what, size, ERROR_PICTURES, ERROR_PICTURES), what
                ):
                    print(row, flush=True)
            return
        folders, rows = {}, []
        print("| pictures | models | loader | images/s and core (range) |")
        print("|---|---|---|---|", flush=True)
        for size, count in (TINY if given.tiny else SIZES).items():
            what = "{} x {}".format(*size)
            folder = folder_of(Path(place) / what, size, count, min(count, DIFFERENT))
            folders[folder] = count
            mean = sum(path.stat().st_size for path in folder.iterdir()) / count
            for row in rates(folder, f"{what}, {mean / 1000:.0f} kB", count, rounds):
                *labels, seconds = row.values()
                print(f"| {' | '.join(labels)} | {rate(seconds, count)} |", flush=True)
                rows.append(row | {"images": count})
        splits = [split(folder, count, rounds) for folder, count in folders.items()]
        print(f"\n| ms per image | {' | '.join(folder.name for folder in folders)} |")
        print(f"|---|{'---|' * len(folders)}", flush=True)
        for step in splits[0]:
            cells = (
                f"{statistics.median(each[step]):.3f} ({min(each[step]):.3f} to {max(each[step]):.3f})"
                for each in splits
            )
            print(f"| {step} | {' | '.join(cells)} |")
        steps = {folder.name: each for folder, each in zip(folders, splits, strict=True)}
        record("loading", [*rows, {"milliseconds per image": steps}])


if __name__ == "__main__":
    main()
