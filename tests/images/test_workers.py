"""Loading in other processes."""

import errno
import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data._utils import signal_handling

from refiner_cka.errors import DataError
from refiner_cka.images import UnreadableImage, batches, load_batches, open_source, plan_batches
from tests.images.examples import (
    IMAGES,
    PICTURES,
    SMALL,
    Source,
    batches_of,
    folder_of,
    pixels,
    scene,
    stored,
    tar_of,
)


@pytest.mark.parametrize("kind", ["folder", "tar", "h5", "npy"])
def test_workers_change_nothing(kind, tmp_path):
    data = {
        "folder": lambda: folder_of(tmp_path / "f", [f"{'ab'[i % 2]}/{i}.png" for i in range(14)]),
        "tar": lambda: tar_of(tmp_path / "x.tar", [*PICTURES, ("a/x.jpg", b"not a picture")]),
        "h5": lambda: stored(tmp_path / "x.h5", images=IMAGES, y=np.arange(6)),
        "npy": lambda: stored(tmp_path / "x.npy", images=IMAGES),
    }
    source = open_source(data[kind]())
    source.digest(range(6))
    source.read(0)
    state = torch.get_rng_state()
    alone, helped = batches_of(source), batches_of(source, workers=2)
    assert len(alone) == len(helped) >= 1
    for one, two in zip(alone, helped, strict=True):
        assert one.index == two.index
        assert torch.equal(one.inputs[SMALL], two.inputs[SMALL])
        assert one.unreadable == two.unreadable
        assert one.digests == two.digests
        assert one.labels is two.labels is None or torch.equal(one.labels, two.labels)
    assert torch.equal(torch.get_rng_state(), state), "the user's random numbers are untouched"


def test_sources_can_be_sent_to_workers_that_are_not_forks(tmp_path):
    files = [
        folder_of(tmp_path / "f", ["a.png"]),
        tar_of(tmp_path / "x.tgz", PICTURES, "w:gz"),
        *(stored(tmp_path / f"x.{suffix}", images=IMAGES) for suffix in ("h5", "npy")),
    ]
    for source in map(open_source, files):
        sent = pickle.dumps(source)
        assert len(sent) < 2000, "contents stay where they are"
        assert (pixels(pickle.loads(sent).read(0)) == pixels(source.read(0))).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_inputs_of_different_shapes_are_refused_in_one_line(workers):
    source = Source(4, lambda index: torch.zeros(3, 4, 4 + index % 2), input_shape=(3, 4, 4))
    with pytest.raises(DataError, match=r"^inputs of shapes \(3, 4, 4\) and \(3, 4, 5\) cannot"):
        batches_of(source, workers=workers)


def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch):
    """It is told where it is waited for: torch's handler would raise it in a forward pass."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in a new process
    source = Source(8, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=None, seed=0)

    def die(index):
        if index in plan.batches[1]:
            while not (tmp_path / "now").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return scene()

    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        batches = load_batches(Source(8, die), plan, [0, 1], [SMALL], workers=1)
        assert next(batches).images == 4
        (tmp_path / "now").touch()
        time.sleep(0.5)  # the worker dies, and this process goes on with its work
        with pytest.raises(DataError, match=r"a loading process died .*--workers") as caught:
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "\n" not in str(caught.value)


def test_workers_leave_ctrl_c_to_the_main_process():
    def interrupted(index):
        os.kill(os.getpid(), signal.SIGINT)
        return scene()

    assert [batch.images for batch in batches_of(Source(8, interrupted), workers=2)] == [4, 4]


def test_batches_need_no_shared_memory(monkeypatch):
    """Where /dev/shm is full torch fails in a thread of the loading process, and the batch never comes."""

    def full(*_args, **_kwargs):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    monkeypatch.setattr(batches, "PATIENCE", 20.0)
    assert [batch.images for batch in batches_of(Source(8, lambda _: scene()), workers=2)] == [4, 4]


def test_tensors_that_are_shared_stay_so_on_their_way():
    source = Source(4, lambda _: scene())
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    same = replace(SMALL, mean=(0.1, 0.2, 0.3))
    (batch,) = load_batches(source, plan, [0], [SMALL, same], workers=1)
    assert batch.inputs[SMALL] is batch.inputs[same]
    assert not batch.inputs[SMALL].is_shared()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_inputs_arrive_to_the_bit_and_can_be_written_to(kind):
    """Models may work in place on what they are fed."""
    images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(kind)
    images[0, 0, 0, 0] = torch.nan
    source = Source(4, lambda index: images[index].mT, input_shape=(3, 4, 4))
    (order,) = plan_batches(source, batch_size=4, images=None, seed=0).batches
    (batch,) = batches_of(source, workers=1)
    found = batch.inputs[SMALL]
    assert found.dtype == kind
    assert torch.equal(found.view(torch.uint8), images[[*order]].mT.contiguous().view(torch.uint8))
    found.add_(1)


def test_loading_processes_that_hang_end_in_one_line(monkeypatch):
    monkeypatch.setattr(batches, "PATIENCE", 0.5)
    with pytest.raises(
        DataError, match=r"no image came from any of 2 loading .*--workers 0"
    ) as caught:
        batches_of(Source(8, lambda _: signal.pause()), workers=2)
    assert "\n" not in str(caught.value)
    for child in multiprocessing.active_children():
        child.join()
        assert child.exitcode == -signal.SIGKILL, "else the end waits for each of them again"


def test_each_image_is_a_sign_of_life_also_one_that_is_unreadable():
    def unreadable(_index):
        raise UnreadableImage("broken")

    source = Source(4, unreadable)
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    loading = batches._Batches(source, plan, [SMALL])
    loading.alive.value = 0.0
    child = multiprocessing.Process(target=loading.__getitem__, args=(0,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert loading.alive.value > 0


class Waited:
    """What a DataLoader gives: in a time of its own, nothing in the first looks, and then a batch."""

    def __init__(self, monkeypatch, *, looks, image_every):
        self.now, self.looks, self.image_every = 1000.0, looks, image_every
        self.alive = SimpleNamespace(value=0.0)  # long before
        monkeypatch.setattr(batches, "time", SimpleNamespace(monotonic=lambda: self.now))

    def __iter__(self):
        return self

    def __next__(self):
        self.now += batches.PATIENCE / 10
        if self.looks and self.looks % self.image_every == 0:
            self.alive.value = self.now
        self.looks -= 1
        if self.looks < 0:
            return "a batch"
        raise RuntimeError("DataLoader timed out after 5 seconds")


def test_a_source_that_is_slow_but_alive_is_waited_for(monkeypatch):
    """A batch of 100 images may take them a minute each, less a little."""
    waited = Waited(monkeypatch, looks=900, image_every=9)
    assert batches._next(waited, waited, []) == "a batch"
    assert waited.now - 1000 > 80 * batches.PATIENCE


def test_loading_is_stalled_after_a_time_without_images_from_when_a_batch_is_waited_for(
    monkeypatch,
):
    """That a run took long over the batch before says nothing of its loading processes."""
    waited = Waited(monkeypatch, looks=9, image_every=1000)
    assert batches._next(waited, waited, []) == "a batch"
    waited = Waited(monkeypatch, looks=900, image_every=1000)
    with pytest.raises(DataError, match="for 50 s"):
        batches._next(waited, waited, [])
    assert 50 <= waited.now - 1000 < 60


def test_processes_that_cannot_be_started_are_refused_in_one_line(monkeypatch):
    """With /dev/shm full there is no room for a semaphore either."""

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(
        DataError, match=r"cannot start 1 loading processes: No space left .*0: none"
    ):
        batches_of(Source(4, lambda _: scene()), workers=1)
