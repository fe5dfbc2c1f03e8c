"""Several trainings of one recipe as a group of models."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.errors import ResultError
from tests import pathological
from tests.analysis.runs import inputs, prepare, run, seeded, subject


def training(seed, layers=("fc1", "fc2"), **kwargs):
    """A network with weights of its own."""
    module = seeded(pathological.InplaceReLU)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            )
    return subject(module, list(layers), **{"name": f"seed{seed}", "group": "Ours", **kwargs})


def test_a_group_changes_no_number_and_is_kept(tmp_path):
    subjects = [training(0), training(1), training(2, group="")]
    result = run(subjects, inputs(), batch_size=8)
    assert result.groups == {"Ours": ("seed0", "seed1")}
    alone = run([replace(each, group="") for each in subjects], inputs(), batch_size=8)
    assert alone.groups == {}
    assert alone.fingerprint == result.fingerprint
    assert (alone.cka() == result.cka()).all()
    result.save(tmp_path / "run.h5")
    assert rc.load(tmp_path / "run.h5").groups == result.groups


@pytest.mark.parametrize(
    ("subjects", "error", "message"),
    [
        (lambda: [training(0)], rc.ModelError, "'Ours' has one training, seed0: .* group=Ours"),
        (
            lambda: [training(0), training(1), training(2, name="Ours", group="")],
            rc.ModelError,
            "'Ours' is the name of a group and of a model",
        ),
        (
            lambda: [training(0), training(1), training(0, name="again")],
            rc.ModelError,
            "seed0 and again of the group 'Ours' have the same weights",
        ),
        (
            lambda: [training(0), training(1, layers=["fc2"])],
            rc.LayerError,
            "seed0 and seed1 of the group 'Ours' do not have the same layers",
        ),
        (lambda: [training(0, group="a/b"), training(1, group="a/b")], rc.ModelError, "no '/'"),
        (lambda: [training(0, group=".."), training(1, group="..")], rc.ModelError, "no '/'"),
    ],
)
def test_what_is_no_group_is_refused_before_any_forward_pass(subjects, error, message):
    given = subjects()
    for each in given:
        each.module.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass"))
    with pytest.raises(error, match=message) as caught:
        prepare(given, inputs())
    assert "\n" not in str(caught.value)


class Skipping(nn.Module):
    """May leave its second layer out, which only a forward pass shows."""

    def __init__(self, seed, *, skips):
        super().__init__()
        self.skips = skips
        self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 48)
        nn.init.normal_(self.one.weight, generator=torch.Generator().manual_seed(seed))

    def forward(self, x):
        x = self.one(x.flatten(1))
        return x if self.skips else self.two(x)


def test_a_layer_that_one_training_never_calls_is_refused():
    subjects = [
        subject(Skipping(seed, skips=bool(seed)), "*", name=f"seed{seed}", group="Ours")
        for seed in (0, 1)
    ]
    with pytest.raises(rc.LayerError, match=r"seed0 and seed1 .* do not have the same layers"):
        prepare(subjects, inputs())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["seed0", "seed1"], "no table of names"),
        ({"Ours": "seed0"}, "no list of models"),
        ({"Ours": ["seed0", 1]}, "no list of models"),
        ({"seed0": ["seed0", "seed1"]}, "has the name of a model"),
        ({"Ours": ["seed0", "seed9"]}, "a model that is not there"),
        ({"Ours": ["seed0"]}, "not several models"),
        ({"Ours": ["seed0", "seed0"]}, "not several models"),
        ({"Ours": ["seed0", "other"]}, "have different layers"),
    ],
)
def test_groups_that_no_run_can_have_made_are_refused(groups, message):
    subjects = [training(0), training(1), training(2, layers=["fc2"], name="other", group="")]
    result = run(subjects, inputs(8), batch_size=8, smoothing="none")
    with pytest.raises(ResultError, match=message):
        replace(result, provenance={**result.provenance, "groups": groups})
