"""Kill real runs at random moments, resume each, and compare with the run that nobody disturbed.

    python tests/stress/stress.py [--cases 50] [--seed 0]

A run of one process must give the same bits, a run of three the same numbers to 1e-12, and no run may repeat more
than what it measured since its last save. `docs/reliability.md` says what came out.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import refiner_cka as rc
from cli.output import Target
from tests.stress import counted, launching

SIGNALS = ("KILL", "TERM", "INT", "HUP")
TOLERANCE = 1e-12
LIMIT = 60.0
"""Seconds that a run, or the end of one, may take before the test gives up."""


@dataclass(frozen=True)
class Case:
    """How one run is disturbed."""

    processes: int
    resumed_by: int
    name: str
    target: str
    moment: float
    save_every: float

    def kills(self, rank):
        """Whether a process has no time to save: torchrun ends the others, and without it they end themselves."""
        alone = self.target == "launcher" and self.processes == 1
        return self.name == "KILL" and (alone or self.target in (str(rank), "all"))

    def __str__(self):
        return (
            f"{self.processes} -> {self.resumed_by} processes, {self.name} to {self.target} after "
            f"{self.moment:.2f} s, saved every {self.save_every} s"
        )


def arguments(images, *more):
    return [
        *("analyze", "--model", "tests.stress.counted:build,label=vit", "--layers", "block"),
        *("--data", "digits", "--images", str(images), "--batch-size", str(counted.BATCH)),
        *("--device", "cpu", "--workers", "0", "--quiet", *more),
    ]


def cases(count, durations, rng):
    """Each signal as often as the others, in one process and in three, at moments spread over the run."""
    for number in range(count):
        processes = (1, 3)[number % 2]
        name = SIGNALS[number // 2 % len(SIGNALS)]
        targets = ["launcher"] if processes == 1 else ["launcher", "0", "1", "2", "all"]
        yield Case(
            processes=processes,
            resumed_by=1 if processes == 1 else rng.choice([1, 2, 3]),
            name=name,
            target=rng.choice(targets),
            moment=rng.uniform(0.0, 1.1 * durations[processes]),
            save_every=rng.choice([0.0, 0.2, 60.0]),
        )


def run(processes, folder, images, *more):
    """Run to the end; return the seconds until the result was there."""
    begin = time.time()
    out = ("--out", f"{folder}/results")
    pid = launching.start(processes, arguments(images, *out, *more), folder)
    code, _ = launching.wait(pid, folder, LIMIT)
    assert code == 0, f"exit code {code}:\n{(folder / 'output.txt').read_text()}"
    [result] = (folder / "results").glob("analysis*.h5")
    return result.stat().st_mtime - begin


def disturb(case, folder, images):
    """Start a run, disturb it, and return the seconds until all its processes had ended."""
    out = ("--out", f"{folder}/results", "--save-every", str(case.save_every))
    pid = launching.start(case.processes, arguments(images, *out), folder)
    time.sleep(case.moment)
    number = getattr(signal, f"SIG{case.name}")
    for name, each in launching.pids(folder) if case.target != "launcher" else [("launcher", pid)]:
        if case.target in (name, "all"):
            with suppress(ProcessLookupError):
                os.kill(each, number)
    return launching.wait(pid, folder, LIMIT)[1]


def lines(folder):
    """The batches that networks were given so far: of which process, and when."""
    text = (folder / "counted.txt").read_text().splitlines()
    return [(int(rank), float(at)) for rank, at in (line.split() for line in text)]


def lost(case, folder, whole):
    """Return how many batches were measured and are in no file, and how many of them may be."""
    target = Target(folder / "results", "analysis", False)
    kept = target.measured(whole)
    measured = lines(folder)
    allowed = 0
    for rank in range(case.processes):
        part = Target(target.folder, target.stem, False, rank).partial
        own = [at for of, at in measured if of == rank]
        if case.kills(rank):
            saved = part.stat().st_mtime if part.exists() else 0.0
            allowed += sum(at > saved for at in own)
        else:
            allowed += min(1, len(own))  # the batch in which the signal came
    held = 0 if kept is None else len(kept.batches)
    return len(measured) - held, allowed


def difference(one, two):
    """Return the largest difference of all numbers of two results, relative to the largest of each kind."""
    worst = 0.0
    for path, values in one.sums.items():
        worst = max(worst, _relative(values, two.sums[path]))
    for a, b in ((one.cka(), two.cka()), (one.cka_se(), two.cka_se())):
        worst = max(worst, _relative(a, b))
    for name in one.measures:
        a, b = (each.smoothing(name, "vit").values for each in (one, two))
        worst = max(worst, _relative(a, b))
    for name in ("batches", "batch_images", "batch_digests", "image_digests"):
        if not np.array_equal(getattr(one, name), getattr(two, name)):
            return np.inf
    return worst


def _relative(one, two):
    if not np.array_equal(np.isnan(one), np.isnan(two)):
        return np.inf
    scale = np.nanmax(np.abs(one), initial=0.0) or 1.0
    return float(np.nanmax(np.abs(one - two), initial=0.0) / scale)


def check(case, folder, images, whole):
    """Disturb a run, resume it, and return what it was like: when it ended, seconds, batches lost, difference."""
    seconds = disturb(case, folder, images)
    results = folder / "results"
    partials = Target(results, "analysis", False).partials
    state = "complete" if (results / "analysis.h5").exists() else "saved" if partials else "unsaved"
    gone, allowed = lost(case, folder, whole)
    assert 0 <= gone <= allowed, f"{gone} batches are lost, {allowed} may be"
    before = len(lines(folder))
    run(case.resumed_by, folder, images, "--resume")
    repeated = len(lines(folder)) - len(whole.batches)
    assert repeated == gone, f"{repeated} batches were measured twice, {gone} were lost"
    assert before + len(whole.batches) - (before - gone) == len(lines(folder))
    result = rc.load(results / "analysis.h5")
    assert result.complete
    assert not Target(results, "analysis", False).partials
    apart = difference(whole, result)
    assert apart <= (0.0 if case.processes == case.resumed_by == 1 else TOLERANCE), apart
    return state, seconds, gone, apart


def stress(count, seed, images, folder):
    """Check so many cases; return the lines that say what came out."""
    launching.adopt_orphans()
    durations = {n: run(n, folder / f"whole{n}", images) for n in (1, 3)}
    whole, three = (rc.load(folder / f"whole{n}" / "results" / "analysis.h5") for n in (1, 3))
    assert difference(whole, three) <= TOLERANCE
    states, slowest, gone, apart = Counter(), 0.0, Counter(), Counter()
    for number, case in enumerate(cases(count, durations, random.Random(seed))):
        try:
            state, seconds, batches, off = check(case, folder / str(number), images, whole)
        except (AssertionError, TimeoutError) as error:
            output = (folder / str(number) / "output.txt").read_text()
            raise AssertionError(f"case {number}, {case}: {error}\n{output}") from error
        shutil.rmtree(folder / str(number))
        states[case.processes, state] += 1
        slowest = max(slowest, seconds)
        gone[case.name] = max(gone[case.name], batches)
        apart[case.processes] = max(apart[case.processes], off)
    yield f"{count} runs of {images} images in {len(whole.batches)} batches, all resumed to the same result"
    for processes in (1, 3):
        found = {state: states[processes, state] for state in ("unsaved", "saved", "complete")}
        told = ", ".join(f"{n} {state}" for state, n in found.items())
        yield f"{processes} process(es): {told}; largest difference {apart[processes]:.1e}"
    yield f"most batches measured twice, by signal: {', '.join(f'{n} {gone[n]}' for n in SIGNALS)}"
    yield f"all processes had ended {slowest:.1f} s after the signal at the latest"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        for line in stress(options.cases, options.seed, options.images, Path(folder)):
            print(line)


if __name__ == "__main__":
    main()
