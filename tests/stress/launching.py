"""Starting `refiner-cka`, and `torchrun` with it, by a fork of a process that has imported everything.

What runs is the command line and torchrun as they are; only the imports, which take longer than the runs here, are
done once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

# Imported in the parent for all.
import matplotlib.pyplot
import timm
import torch.distributed.run
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import cli.app
import refiner_cka as rc
from refiner_cka.plots import figures
from tests.stress import counted

IMPORTED = (matplotlib.pyplot, timm, counted, figures, rc.analyze, rc.summarize)
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Become the parent of processes whose own parent is killed, so that none is overlooked."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Forked:
    """What torchrun needs of a `subprocess.Popen` of a worker."""

    def __init__(self, args, env):
        arguments = args[args.index("cli.app") + 1 :]
        self.pid = fork(lambda: command(arguments), env, os.environ["STRESS_OUTPUT"])
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout=None):
        end = time.monotonic() + (timeout or 600)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.01)
        return self.returncode


def fork(run, env, output):
    """Run a function in a process and session of its own, as a shell would start it; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
        with open(output, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # An exec would close them too: a launcher's sockets must not outlive it in its workers.
        os.closerange(3, 1024)
        os.environ.clear()
        os.environ.update(env)
        with open(f"{env['STRESS_FOLDER']}/pids", "a") as file:
            file.write(f"{env.get('RANK', 'launcher')} {os.getpid()}\n")
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
    return None


def _ended(run):
    """Return the exit code with which a function would end a process."""
    try:
        run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def command(arguments):
    """Run `refiner-cka` and return its exit code."""
    sys.argv = ["refiner-cka", *arguments]
    return _ended(cli.app.main)


def torchrun(processes, arguments):
    """Run `torchrun -m refiner_cka.cli.app` and return its exit code."""
    subprocess_handler.SubprocessHandler._popen = lambda _self, args, env: Forked(args, env)
    launcher = ["--standalone", f"--nproc-per-node={processes}", "-m", "cli.app"]
    return _ended(lambda: torch.distributed.run.main([*launcher, *arguments]))


def start(processes, arguments, folder, **env):
    """Start a run in a folder; return the process of the launcher, or of the one process."""
    run = (
        (lambda: command(arguments)) if processes == 1 else (lambda: torchrun(processes, arguments))
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        "STRESS_FOLDER": str(folder),
        "STRESS_OUTPUT": str(folder / "output.txt"),
        "COUNTED": str(folder / "counted.txt"),
        "OMP_NUM_THREADS": "1",
        **env,
    }
    (folder / "counted.txt").touch()
    (folder / "pids").write_text("")
    return fork(run, {**os.environ, **own}, own["STRESS_OUTPUT"])


def pids(folder):
    """Return the processes of the run in a folder so far, as `(rank or launcher, process)`."""
    lines = (Path(folder) / "pids").read_text().splitlines()
    return [(name, int(pid)) for name, pid in (line.split() for line in lines)]


def wait(pid, folder, limit):
    """Wait until all processes of a run have ended; return the exit code of its first, and the seconds it took.

    Raises:
        TimeoutError: some have not within the limit; they are killed.
    """
    begin, code = time.monotonic(), None
    while True:
        alive = []
        for _, each in dict.fromkeys([("", pid), *pids(folder)]):
            try:
                found, status = os.waitpid(each, os.WNOHANG)
            except ChildProcessError:
                # Its own parent's to wait for, while that lives; else it was waited for.
                found = 0 if Path(f"/proc/{each}").exists() else each
                status = None
            if found == 0:
                alive.append(each)
            elif each == pid and status is not None:
                code = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - begin
        if not alive:
            return code, took
        if took > limit:
            for each in alive:
                os.kill(each, signal.SIGKILL)
            raise TimeoutError(f"{len(alive)} processes of {folder} did not end in {limit} s")
        time.sleep(0.005)
