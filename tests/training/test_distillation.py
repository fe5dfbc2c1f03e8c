"""Distillation: what a teacher decides reaches the distillation token, whatever order its classes have."""

import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.training import Recipe
from tests.training.tiny import GEOMETRY, SIDE, STILL, network, subject

STUDENT = f"deit_nano=random,depth=2,img_size={SIDE}"


@torch.no_grad()
def shares_correct(student, folder):
    """The shares of images that the class token and the distillation token get right."""
    source = open_source(folder)
    images = torch.stack([GEOMETRY.transform()(source.read(i)) for i in range(len(source.ids))])
    student.set_distilled_training(True)
    outputs = student.train()(GEOMETRY.normalize(images))
    labels = torch.tensor(source.labels)
    return [(logits.argmax(1) == labels).float().mean() for logits in outputs]


def test_the_teachers_decisions_reach_the_distillation_token_alone(folder):
    """A teacher that always says the wrong class turns the distillation head round, not the other."""
    recipe = Recipe(epochs=6, batch_size=8, augmentation=None)
    liar = network()
    rc.train(subject(liar), folder, recipe=recipe)
    liar[3].weight.data.neg_()
    liar[3].bias.data.neg_()
    assert rc.accuracy(subject(liar), folder) == 0.0
    teacher = subject(liar)
    student = rc.train(STUDENT, folder, teacher=teacher, recipe=recipe).subject.module
    assert not student.distilled_training
    own, distilled = shares_correct(student, folder)
    assert own > 0.9
    assert distilled < 0.1


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (
            "vit_nano=random,depth=1",
            "resnet_nano=random,num_classes=2",
            rc.ModelError,
            "no distillation token",
        ),
        (
            "deit_nano=random,depth=1",
            "resnet_nano",
            rc.DataError,
            "resnet_nano does not predict all classes of .*images",
        ),
    ],
)
def test_teachers_that_cannot_teach_are_refused(folder, student, teacher, error, message):
    with pytest.raises(error, match=message):
        rc.train(student, folder, teacher=teacher, recipe=STILL)


def test_a_refused_training_leaves_the_student_as_it_was(folder):
    (student,) = rc.subjects.resolve("deit_nano=random,depth=1")
    with pytest.raises(rc.DataError):
        rc.train(student, folder, teacher="resnet_nano", recipe=STILL)
    assert not student.module.distilled_training


def test_a_teacher_with_its_classes_in_another_order_teaches_by_name(folder):
    class Knowing(nn.Module):
        """Bright is its logit 2, dark its logit 0."""

        def forward(self, images):
            level = images.mean((1, 2, 3))
            return torch.stack([-level, level - 9, level], dim=1)

    knowing = nn.Sequential(Knowing(), nn.Identity())
    teacher = subject(knowing, classes=["dark", "grey", "bright"])
    assert rc.accuracy(teacher, folder) == 1.0
    recipe = Recipe(epochs=6, batch_size=8, augmentation=None)
    student = rc.train(STUDENT, folder, teacher=teacher, recipe=recipe).subject.module
    assert shares_correct(student, folder)[1] > 0.9
