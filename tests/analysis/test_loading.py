"""What a run asks of its images: each decoded once for all models, and the next ones while a batch is reduced."""

import os
import time
from dataclasses import replace

import pytest
from PIL import Image
from torch import nn

import refiner_cka as rc
from refiner_cka.images import batches, files
from tests.analysis.runs import image_folder, inputs, prepare, run, seeded, sized, subject
from tests.images.examples import Source, scene


def network(name, preprocessing):
    module = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    return subject(module, ["0", "1", "2"], name, preprocessing=preprocessing, layout="nchw")


def test_six_models_decode_each_image_once_and_resize_it_once_for_each_geometry(
    tmp_path, monkeypatch
):
    decoded, resized = [], []
    decode, resize = files.decode, Image.Image.resize

    def decoding(stream, at_least=None):
        decoded.append(stream.name)
        return decode(stream, at_least)

    def resizing(image, size, *args, **kwargs):
        resized.append(size)
        return resize(image, size, *args, **kwargs)

    data = image_folder(tmp_path / "images", 20, size=40)
    ways = [sized(8), replace(sized(8), mean=(0.5,) * 3), replace(sized(8), crop_pct=0.5)]
    ways += [replace(sized(8), std=(1.0,) * 3), sized(12), sized(12)]
    analysis = prepare([network(f"{k}", way) for k, way in enumerate(ways)], data, batch_size=5)
    monkeypatch.setattr(files, "decode", decoding)
    monkeypatch.setattr(Image.Image, "resize", resizing)
    assert rc.measure(analysis).images == 20
    assert sorted(decoded) == sorted(str(path) for path in data.iterdir())
    assert sorted(resized) == sorted(20 * [(9, 9), (16, 16), (13, 13)])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_batches_are_loaded_while_one_is_reduced(tmp_path, workers):
    """An order of events, not of times: after each batch the loop stands still until those ahead were read.

    Were one of them read only when it is asked for, the loop would stand still for ever.
    """
    log = tmp_path / "log"

    def read(index):
        with open(log, "a") as lines:
            lines.write(f"{os.getpid()} {index}\n")
        return scene(seed=index)

    source = Source(32, read)
    analysis = prepare(network("one", sized(8)), source, batch_size=4, workers=workers)
    ahead = batches.AHEAD * workers
    deadline = time.monotonic() + 60

    def stand_still(done, total):
        expected = [each for batch in analysis.plan.batches[: done // 4 + ahead] for each in batch]
        while True:
            found = [line.split() for line in log.read_text().splitlines()]
            if len(found) >= len(expected):
                break
            assert time.monotonic() < deadline, f"{len(found)} images were read after {done}"
            time.sleep(0.01)
        assert sorted(int(index) for _, index in found) == sorted(expected)
        assert str(os.getpid()) not in {process for process, _ in found}, "this process only waits"

    assert rc.measure(analysis, progress=stand_still).images == 32


def test_fast_pixels_are_of_another_analysis_and_said(tmp_path):
    data = image_folder(tmp_path / "images", 12)
    usual, fast = (
        run(network("one", sized(8)), data, batch_size=4, fast_pixels=fast)
        for fast in (False, True)
    )
    assert usual.fingerprint != fast.fingerprint
    assert fast.provenance["images"]["fast_pixels"] is True
    assert fast.provenance["options"]["fast_pixels"] is True
    for result, said in ((usual, False), (fast, True)):
        assert ("--fast-pixels" in rc.results.methods.paragraph(result)) is said
        answer = dict(rc.results.methods.answers(result))["Which transform?"]
        assert ("--fast-pixels" in answer) is said


def test_floating_inputs_have_no_fast_pixels():
    one, two = (
        run(network("one", sized(8)), inputs(12, 8), batch_size=4, fast_pixels=fast)
        for fast in (False, True)
    )
    assert one.fingerprint == two.fingerprint
