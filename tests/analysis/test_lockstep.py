"""Hooks: called with every output, gone afterwards; chunks in lockstep."""

import gc
import weakref

import pytest
import torch
from torch import nn

from refiner_cka.analysis.lockstep import Lockstep
from refiner_cka.errors import LayerError
from refiner_cka.subjects.hooks import capture, first_outputs


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def hooks_left(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def test_hooks_are_gone_after_success_and_after_failure():
    module = network()
    with capture(module, ["0", "2"], lambda path, output: None):
        assert hooks_left(module) == 2
    assert hooks_left(module) == 0
    with (
        pytest.raises(ValueError, match="inside"),
        capture(module, ["0"], lambda path, output: None),
    ):
        raise ValueError("inside")
    assert hooks_left(module) == 0


def test_hooks_already_set_are_removed_when_a_path_does_not_exist():
    module = network()
    with pytest.raises(AttributeError), capture(module, ["0", "9"], lambda path, output: None):
        pass
    assert hooks_left(module) == 0


def test_first_outputs_come_in_the_order_of_the_calls_with_every_call():
    class Backwards(nn.Module):
        """Calls its modules against the order of their definition, one twice, one never."""

        def __init__(self):
            super().__init__()
            self.first, self.twice, self.never = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.first(self.twice(self.twice(x)))

    module = Backwards()
    calls, returned = first_outputs(
        module,
        ["first", "twice", "never"],
        lambda: module(torch.zeros(2, 4)),
        lambda out: out.shape,
    )
    assert list(calls) == ["twice", "first"]
    assert calls["twice"] == [(2, 4), (2, 4)]
    assert returned.shape == (2, 4)


@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_in_lockstep_each_layer_is_visited_once_with_all_chunks(chunk):
    module, inputs = network(), torch.randn(7, 4)
    visits = []
    lockstep = Lockstep(lambda path, outputs: visits.append((path, torch.cat(list(outputs)))))
    with torch.inference_mode(), capture(module, ["0", "1", "2"], lockstep.arrive):
        returned = lockstep.run(module, inputs.split(chunk))
        assert [path for path, _ in visits] == ["0", "1", "2"]
        expected = module[0](inputs)
        torch.testing.assert_close(visits[0][1], expected)
        torch.testing.assert_close(visits[1][1], expected.relu())
        torch.testing.assert_close(torch.cat(returned), visits[2][1])


def test_in_lockstep_no_output_outlives_the_visit_of_the_next_layer():
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    alive, seen = [], []

    def visit(path, outputs):
        gc.collect()
        alive.append(sum(reference() is not None for reference in seen))
        seen.extend(weakref.ref(output) for output in outputs)

    lockstep = Lockstep(visit)
    with torch.inference_mode(), capture(module, ["0", "1", "2", "3"], lockstep.arrive):
        lockstep.run(module, torch.randn(6, 4).split(2))
    # A chunk's own forward pass holds the input of the layer it is in, and nothing older.
    assert max(alive) <= 3


def test_an_error_in_one_chunk_reaches_the_caller_and_leaves_no_pass_behind():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            x = self.layer(x)
            if len(x) == 1:
                raise RuntimeError("this chunk fails")
            return x

    module = Fails()
    lockstep = Lockstep(lambda path, outputs: None)
    with capture(module, ["layer"], lockstep.arrive):
        with pytest.raises(RuntimeError, match="this chunk fails"):
            lockstep.run(module, torch.randn(5, 4).split(2))
        assert lockstep.run(module, torch.randn(4, 4).split(2))[1].shape == (2, 4)


def test_chunks_that_take_different_ways_are_refused():
    class Forks(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.left(x) if x.sum() > 0 else self.right(x)

    module = Forks()
    lockstep = Lockstep(lambda path, outputs: None)
    inputs = torch.cat([torch.ones(2, 4), -torch.ones(2, 4)])
    with (
        capture(module, ["left", "right"], lockstep.arrive),
        pytest.raises(LayerError, match="different layers for different images"),
    ):
        lockstep.run(module, inputs.split(2))
