"""What memory a run takes, and what is left when it, or the run, ends early."""

import subprocess
import sys
import weakref

import numpy as np
import pytest
import timm
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.analysis.probe import PROBE_IMAGES
from refiner_cka.measures import hsic
from tests import pathological
from tests.analysis.runs import (
    CKA_TOLERANCE,
    PRODUCTS,
    ROOT,
    inputs,
    prepare,
    run,
    seeded,
    sized,
    subject,
)


def test_an_interrupted_run_keeps_what_it_measured_and_resumes_to_identical_sums():
    module = seeded(pathological.InplaceReLU)
    prepared = prepare(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8)
    whole = rc.measure(prepared)

    def interrupt(done, total):
        assert total == 100
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(rc.Interrupted) as caught:
        rc.measure(prepared, progress=interrupt)
    part = caught.value.result
    assert part.images == 40
    assert not part.complete
    resumed = rc.measure(prepared, resume=part)
    np.testing.assert_array_equal(resumed.sums[PRODUCTS], whole.sums[PRODUCTS])
    assert resumed.complete
    assert all(not layer._forward_hooks for layer in module.modules())
    other = prepare(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=10)
    with pytest.raises(rc.DataError, match="another analysis"):
        rc.measure(other, resume=part)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_has_been_measured_is_handed_over_from_time_to_time_and_at_the_end(error):
    module, saved = seeded(pathological.InplaceReLU), []
    prepared = prepare(subject(module, ["fc1", "fc2"]), inputs(100), batch_size=8)
    whole = rc.measure(prepared, save=saved.append, save_every=0)
    assert [part.images for part in saved] == [*range(8, 100, 8), 100]
    np.testing.assert_array_equal(saved[-1].sums[PRODUCTS], whole.sums[PRODUCTS])

    def stop(done, _total):
        if done == 24:
            raise error

    saved.clear()
    with pytest.raises(error):
        rc.measure(prepared, progress=stop, save=saved.append)
    assert [part.images for part in saved] == [24]
    resumed = rc.measure(prepared, resume=saved[0])
    np.testing.assert_array_equal(resumed.sums[PRODUCTS], whole.sums[PRODUCTS])


def test_nothing_is_handed_over_before_the_first_batch():
    saved = []

    def fail(x):
        if len(x) > 3:
            raise RuntimeError("no such batch")
        return x

    module = pathological.InplaceReLU()
    module.register_forward_pre_hook(lambda _module, args: (fail(*args),))
    with pytest.raises(RuntimeError, match="no such batch"):
        rc.measure(
            prepare(subject(module.eval(), ["fc1"]), inputs(), batch_size=8), save=saved.append
        )
    assert saved == []


def test_hooks_and_mode_are_as_before_after_a_failure():
    class FailsLater(pathological.InplaceReLU):
        """The first pass, which finds the layers, works; the first batch fails."""

        def forward(self, x):
            if len(x) > 3:
                raise RuntimeError("no such batch")
            return super().forward(x)

    module = seeded(FailsLater).train()
    with pytest.raises(RuntimeError, match="no such batch"):
        run(subject(module, ["fc1", "fc2"]), inputs())
    assert all(not layer._forward_hooks for layer in module.modules())
    assert all(layer.training for layer in module.modules())


def test_out_of_memory_splits_the_pass_and_not_the_batch():
    class Hungry(pathological.InplaceReLU):
        """Has memory for five images."""

        def forward(self, x):
            if len(x) > 5:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    hungry, plenty = seeded(Hungry), seeded(pathological.InplaceReLU)
    split = run(subject(hungry, ["fc1", "relu", "fc2"]), inputs(50), batch_size=16)
    whole = run(subject(plenty, ["fc1", "relu", "fc2"]), inputs(50), batch_size=16)
    np.testing.assert_allclose(split.cka(), whole.cka(), atol=CKA_TOLERANCE)
    np.testing.assert_array_equal(split.sums["images"], whole.sums["images"])


def test_without_memory_for_them_it_is_refused():
    class Hungry(nn.Sequential):
        def forward(self, x):
            if len(x) > PROBE_IMAGES:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    module = Hungry(nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False))
    with (
        pytest.warns(rc.AnalysisWarning, match="depend on the others of its pass"),
        pytest.raises(
            rc.DeviceError, match=r"cannot be split, since an image.s features depend on the others"
        ),
    ):
        run(subject(module.eval(), ["1"]), inputs(32))


def test_no_memory_for_one_image_is_refused():
    class Starving(pathological.InplaceReLU):
        """Works for the passes of the probe: three one after the other, and the three in turns."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 6:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(x)

    with pytest.raises(rc.DeviceError, match="one image at a time"):
        run(subject(seeded(Starving), ["fc1"]), inputs())


MEMORY = """
import resource, sys, torch, timm
import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing
torch.manual_seed(0)
module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8)
subject = rc.Subject.from_module(module, "block", preprocessing=Preprocessing(input_size=(3, 32, 32)))
images = torch.randint(0, 256, (2000, 32, 32, 3), dtype=torch.uint8)
peaks = []
for count in (200, 2000):
    result = rc.analyze(subject, images, images=count, workers=0, device="cpu")
    assert result.images >= count - 3
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_peak_memory_does_not_grow_with_the_images():
    """Kept features of 1,800 more images and 12 blocks would take 280 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert float(done.stdout.split()[-1]) < 20


def test_an_analysis_that_is_kept_keeps_no_gram_matrices(monkeypatch):
    stacks, plain = [], hsic.gram

    def gram(chunks, out, *rest):
        stacks.append(weakref.ref(out._base))
        plain(chunks, out, *rest)

    monkeypatch.setattr(hsic, "gram", gram)
    prepared = prepare(subject(seeded(pathological.InplaceReLU), ["fc1", "fc2"]), inputs())
    rc.measure(prepared)
    assert len(stacks) == 2
    assert prepared.meters
    assert all(stack() is None for stack in stacks)


def test_no_features_are_alive_after_their_hook():
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32)
    references, alive = [], []

    class Watch(nn.Module):
        def forward(self, x):
            alive.append(sum(reference() is not None for reference in references))
            return x

    for block in module.blocks:
        block.register_forward_hook(lambda _m, _i, output: references.append(weakref.ref(output)))
    module.norm = nn.Sequential(Watch(), module.norm)
    analysed = subject(module, "block", preprocessing=sized(32))
    prepared = prepare(analysed, inputs(16, size=32), batch_size=8)
    references.clear()
    alive.clear()
    rc.measure(prepared)
    # Of twelve blocks only the last one's output is still alive when the final norm reads it.
    assert max(alive) == 1
