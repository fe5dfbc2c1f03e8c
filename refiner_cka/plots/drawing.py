"""The figures of a run: drawn one at a time, or all saved, by several processes where there are many."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from ..results.result import Result
from ..results.statistics import Normalize
from . import measuring
from .composing import compose
from .kinds import PLOTS, Case
from .models import checked_names
from .saving import save_figure
from .style import NothingToDraw, PaperFigure, stay

_MOST = 4
"""Processes that draw, at most."""

PATIENCE = 60.0
"""Seconds that another process may need longer than this one."""

_LEAST = 4
"""Panels for each, at least: to start a process takes about as long as one of them."""

Written = dict[str, tuple[Path, Path]]
"""Stem -> the files of a figure."""


def figures(
    result: Result, *, normalize: Normalize = "first-last", models: Sequence[str] | None = None
) -> Iterator[tuple[str, Figure]]:
    """Yield every figure of a run with the stem of its file, one at a time.

    `curves` compares the models, `cka` is the heatmap of all of them and `cka_<model>` that of one; of any other
    index it is `curves_<index>`, `<index>` and `<index>_<model>`. With several readouts there is one of each per
    readout, which the stem names at its end. `against` is there where layers were compared with the labels or the
    pixels, and `ceiling` where models are groups of trainings. `smoothing`, and where it was measured `attention`
    and `attention_<model>`, are over-smoothing. Heatmaps of two models are drawn on request.

    Args:
        result: what was measured.
        normalize: of the curve beside the raw one; see `compare`.
        models: see `compose`.
    """
    return _drawn(result, _cases(result, normalize, models), models)


def save_figures(
    result: Result,
    folder: str | Path,
    *,
    normalize: Normalize = "first-last",
    models: Sequence[str] | None = None,
    processes: int = 1,
) -> list[Path]:
    """Write every figure of a run as PDF and PNG, see `figures`, and return the paths.

    Args:
        result: what was measured.
        folder: where they go.
        normalize: see `figures`.
        models: see `figures`.
        processes: that draw, at most; fewer where there is little to draw, one where the system cannot fork. The
            files are the same whatever the number.

    Raises:
        ResultFileError: a file cannot be written.
    """
    cases = _cases(result, normalize, models)

    def save(share: Iterable[Case]) -> Written:
        return {
            stem: save_figure(_final(figure), Path(folder, stem))
            for stem, figure in _drawn(result, share, models)
        }

    with measuring.once(), _dealt(cases) as deal, contextlib.ExitStack() as stack:
        others = range(1, _helpful(cases, processes))
        answers = [stack.enter_context(_helped(save, deal)) for _ in others]
        written = save(deal)
        found = [answer() for answer in answers]
        for each in found:
            written |= each or {}
        if None in found:
            # Where that process failed, this one will too, and can say why.
            written |= save(case for case in cases if case.stem not in written)
    return [path for case in cases for path in written.get(case.stem, ())]


def _cases(result: Result, normalize: Normalize, models: Sequence[str] | None) -> list[Case]:
    """Return what there is to draw, with stems that differ."""
    names = checked_names(result, models, None) if models is not None else _every(result)
    taken: set[str] = set()
    return [
        replace(case, stem=_stem(case.stem, taken))
        for kind in PLOTS.values()
        for case in (kind.cases(result, names, normalize) if kind.cases else ())
    ]


def _drawn(
    result: Result, cases: Iterable[Case], models: Sequence[str] | None
) -> Iterator[tuple[str, Figure]]:
    for case in cases:
        with contextlib.suppress(NothingToDraw):
            yield case.stem, compose(result, case.panels, models=models, width=case.width)


def _final(figure: Figure) -> Figure:
    """Return a figure to which nothing is added; one whose axes have their places needs no layout."""
    if isinstance(figure, PaperFigure) and figure.placed:
        stay(figure)
    return figure


def _helpful(cases: Sequence[Case], processes: int) -> int:
    """Return how many processes are worth starting, this one included."""
    worth = int(sum(map(_work, cases)) / _LEAST) if sys.platform == "linux" else 1
    return max(1, min(processes, _MOST, worth))


def _work(case: Case) -> float:
    """Return how long a figure takes, in panels: two figures of one take longer than one of two."""
    return len(case.panels) + 0.5


@contextlib.contextmanager
def _dealt(cases: Sequence[Case]) -> Iterator[Iterator[Case]]:
    """Deal cases, those that take longest first, to whichever process asks next, forked ones too."""
    reader, writer = os.pipe()
    order = sorted(cases, key=_work, reverse=True)
    with open(writer, "wb") as pipe:
        pipe.write(array("H", range(len(order))).tobytes())
    try:
        # What is read from a pipe at once, no other process reads.
        taken = iter(lambda: os.read(reader, 2), b"")
        yield (order[array("H", number)[0]] for number in taken)
    finally:
        os.close(reader)


@contextlib.contextmanager
def _helped(
    save: Callable[[Iterable[Case]], Written], share: Iterable[Case]
) -> Iterator[Callable[[], Written | None]]:
    """Save figures in a forked process; a function waits for what it wrote, `None` where it failed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def help_out() -> None:
        # Ctrl-C is for the first process, which ends this one; files are whole or not there also then.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(Exception, KeyboardInterrupt):
            sender.send(save(share))

    def answer() -> Written | None:
        with contextlib.suppress(EOFError):
            if receiver.poll(PATIENCE):
                found: Written = receiver.recv()
                return found
            process.kill()
        return None

    process = context.Process(target=help_out, daemon=True)
    with warnings.catch_warnings():
        # Threads, as of BLAS: those of some OpenMPs do not stand a fork, hence the patience.
        warnings.simplefilter("ignore")
        try:
            process.start()
        except OSError:  # no memory for another process
            yield lambda: None
            return
    sender.close()
    try:
        yield answer
    except BaseException:
        process.terminate()
        process.join(1.0)
        process.kill()  # where the interrupt was lost, as in what is called at the end of an object
        raise
    finally:
        process.join()
        receiver.close()


def _every(result: Result) -> list[str]:
    """Return the models and groups of all readouts."""
    found = (name for tokens in result.tokens for name in checked_names(result, None, tokens))
    return list(dict.fromkeys(found))


def _stem(stem: str, taken: set[str]) -> str:
    """Return the stem, or one with a number if a file system that ignores case would find it taken."""
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    free = next(one for one in itertools.chain([stem], numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free
