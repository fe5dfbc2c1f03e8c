"""Read thousands of damaged and crafted files of every kind, and say what came of it.

    python -m tests.fuzz [--cases 10000] [--seed 0] [--only NUMBER]

It first shows that it would notice what it looks for. Every file is refused in one line of the tool's own words,
left out and counted (pictures), or read; a result is read to the very numbers that were written; nothing in a file
is executed. `docs/reliability.md` says what came out.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from resource import getrusage as _usage

os.environ["OMP_NUM_THREADS"] = "1"

from tests.fuzz import running, selfcheck
from tests.fuzz.kinds import KINDS
from tests.fuzz.reading import READ, REFUSED, SKIPPED


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case; its file is kept")
    chosen = parser.parse_args()
    running.prepare()
    numbers = range(chosen.cases)
    if chosen.only is not None:
        numbers = [chosen.only]
        path = Path(f"fuzz-{chosen.only}{KINDS[running.kind_of(chosen.only)].suffix}")
        path.write_bytes(running.content(chosen.only, chosen.seed))
        print(f"the file is {path}")
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        noticed, of = selfcheck.check(folder)
        print(f"{noticed} of {of} payloads and faults noticed", flush=True)
        for case in running.run(numbers, chosen.seed, folder):
            cases.append(case)
            if not case.fine:
                print(f"case {case.number}, {case.kind}: {case.outcome}", flush=True)
    _report(cases, sum(sum(usage[:2]) for usage in (_usage(RUSAGE_SELF), _usage(RUSAGE_CHILDREN))))
    return int(noticed < of or not all(case.fine for case in cases))


def _report(cases, seconds):
    print(f"{'kind':26}{'cases':>8}{REFUSED:>9}{SKIPPED:>9}{READ:>8}{'wrong':>8}")
    for kind in KINDS:
        outcomes = Counter(case.outcome for case in cases if case.kind == kind)
        counts = [outcomes.total(), outcomes[REFUSED], outcomes[SKIPPED], outcomes[READ]]
        print(
            f"{kind:26}"
            + "".join(f"{count:>8} " for count in [*counts, counts[0] - sum(counts[1:])])
        )
    slowest, largest = max(case.seconds for case in cases), max(case.memory for case in cases)
    wrong = sum(not case.fine for case in cases)
    most = f"{slowest:.1f} s and {largest / 2**20:.0f} MB"
    print(f"{len(cases)} cases in {seconds:.0f} s of a core; at most {most} for one")
    print(
        f"{wrong} wrong"
        if wrong
        else "nothing was executed; results have the numbers that were written"
    )


if __name__ == "__main__":
    sys.exit(main())
