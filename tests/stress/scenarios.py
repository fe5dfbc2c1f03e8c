"""What several processes do that kills at random moments do not show: errors, refusals, waiting, two machines.

    python tests/stress/scenarios.py FOLDER [NAME...]

Prints a line for each scenario: its name and `ok`, or what went wrong.
"""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import refiner_cka as rc
from cli.output import Target
from tests.stress import launching, stress

IMAGES = 240
BATCHES = 30


def end(pid, folder, limit=60):
    """Wait for a run; return its exit code and what it said itself, without what torchrun said."""
    code, _ = launching.wait(pid, folder, limit)
    said = (folder / "output.txt").read_text().splitlines()
    return code, [line for line in said if line.startswith(("error: ", "│ "))]


def out(folder, *more, images=IMAGES):
    return stress.arguments(images, "--out", f"{folder}/results", *more)


def partials(folder):
    return [path.name for path in Target(folder / "results", "analysis", False).partials]


def whole(folder, images=IMAGES):
    stress.run(1, folder / "whole", images)
    return rc.load(folder / "whole" / "results" / "analysis.h5")


def until(holds):
    """Wait for what has to come: three processes that import torch beside others may take minutes."""
    limit = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def a_process_that_fails_ends_all_and_says_why_once(folder):
    folder /= "run"
    code, said = end(launching.start(3, out(folder), folder, FAILS="1"), folder)
    [reason] = [line for line in said if "the device is lost" in line]
    assert code != 0
    assert reason.startswith("error: process 1: unexpected RuntimeError: the device is lost")
    assert sum("as many processes as you like" in line for line in said) == 1, said
    assert not any(line.startswith("error: process 2") for line in said), said
    assert "analysis.partial-1.h5" in partials(folder)
    stress.run(1, folder, IMAGES, "--resume")
    apart = stress.difference(whole(folder), rc.load(folder / "results" / "analysis.h5"))
    assert apart <= stress.TOLERANCE, apart
    assert len(stress.lines(folder)) <= BATCHES + 3


def a_refusal_is_printed_by_the_first_process_alone(folder):
    stress.run(1, folder, IMAGES)
    code, said = end(launching.start(3, out(folder, "--seed", "1"), folder), folder)
    assert code == 1
    assert len(said) == 1, said
    assert "holds another run: " in said[0]
    twice = out(folder, "--seed", "1", "--seed", "2")
    code, said = end(launching.start(3, twice, folder), folder)
    assert code == 1
    assert sum("--seed is given twice" in line for line in said) == 1, said


def one_that_waits_for_a_slow_one_hears_signals(folder):
    pid = launching.start(3, out(folder), folder, SLOW="2")
    part = folder / "results" / "analysis.partial.h5"
    # Two save what they have before they wait, the third stands in its third batch.
    until(lambda: len(partials(folder)) == 2 and len(stress.lines(folder)) == 10 + 10 + 3)
    os.kill(pid, signal.SIGTERM)
    code, said = end(pid, folder)
    assert code != 0
    told = [line for line in said if line.startswith("error: interrupted after 10 of 30 batches")]
    assert len(told) == 1, said
    kept = Target(folder / "results", "analysis", False).measured(rc.load(part))
    assert len(kept.batches) == 10 + 10 + 2


def shares_may_be_uneven_or_empty(folder):
    stress.run(3, folder / "run", 16)
    result = rc.load(folder / "run" / "results" / "analysis.h5")
    assert stress.difference(whole(folder, 16), result) <= stress.TOLERANCE


def a_shard_may_have_several_processes(folder):
    for processes in (1, 3):
        stress.run(processes, folder / str(processes), IMAGES, "--shard", "2/4")
    alone, several = (rc.load(folder / str(n) / "results" / "analysis.2-of-4.h5") for n in (1, 3))
    assert stress.difference(alone, several) <= stress.TOLERANCE
    assert several.batches.tolist() == list(range(1, BATCHES, 4))


class Machines:
    """Two machines without a common file system or a launcher: a process on each."""

    def __init__(self, folder):
        self.folders = [folder / name for name in ("one", "two")]

    def start(self, *more, **env):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        return [
            launching.start(1, out(folder, *more), folder, RANK=str(rank), LOCAL_RANK="0", **env)
            for rank, folder in enumerate(self.folders)
        ]

    def end(self, pids):
        return [end(pid, folder) for pid, folder in zip(pids, self.folders, strict=True)]

    def check_that_it_goes_on(self, folder, repeated):
        """Resume to what one process measures, measuring so many batches twice at most."""
        ended = self.end(self.start("--resume"))
        assert [code for code, _ in ended] == [0, 0], ended
        result = rc.load(self.folders[0] / "results" / "analysis.h5")
        assert stress.difference(whole(folder), result) <= stress.TOLERANCE
        assert sum(len(stress.lines(each)) for each in self.folders) <= BATCHES + repeated
        assert [partials(each) for each in self.folders] == [[], []]
        assert not (self.folders[1] / "results" / "analysis.h5").exists()


def an_error_on_another_machine_ends_all(folder):
    machines = Machines(folder)
    (first, said), (second, reasons) = machines.end(machines.start(FAILS="1"))
    assert (first, second) == (1, 1)
    assert len(reasons) == 1, reasons
    assert reasons[0].startswith("error: process 1: unexpected RuntimeError: the device is lost")
    assert "another process of this run ended" in said[-1], said
    assert [len(partials(each)) for each in machines.folders] == [1, 1]
    machines.check_that_it_goes_on(folder, 2)


def a_process_killed_on_another_machine_costs_what_it_did_not_save(folder):
    machines = Machines(folder)
    pids = machines.start("--save-every", "0", SLOW="1")
    until(lambda: len(stress.lines(machines.folders[1])) == 3)
    os.kill(pids[1], signal.SIGKILL)
    (first, said), (second, _) = machines.end(pids)
    assert (first, second) == (1, -signal.SIGKILL)
    assert "another process of this run ended" in said[-1], said
    machines.check_that_it_goes_on(folder, 1)


SCENARIOS = (
    a_process_that_fails_ends_all_and_says_why_once,
    a_refusal_is_printed_by_the_first_process_alone,
    one_that_waits_for_a_slow_one_hears_signals,
    shares_may_be_uneven_or_empty,
    a_shard_may_have_several_processes,
    an_error_on_another_machine_ends_all,
    a_process_killed_on_another_machine_costs_what_it_did_not_save,
)


def main():
    launching.adopt_orphans()
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    for scenario in SCENARIOS:
        if wanted and scenario.__name__ not in wanted:
            continue
        begin = time.monotonic()
        (folder / scenario.__name__).mkdir()
        try:
            scenario(folder / scenario.__name__)
            print(f"{scenario.__name__}: ok", flush=True)
        except Exception:
            print(f"{scenario.__name__}: {traceback.format_exc()}", flush=True)
        print(f"{time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
