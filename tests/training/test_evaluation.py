"""Accuracy: every readable image counts, and only classifiers have one."""

import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.training import evaluation
from tests.training.tiny import subject


def test_every_readable_image_counts_for_accuracy(folder, monkeypatch):
    """Also those of a last batch too small for CKA; an unreadable one is named."""
    monkeypatch.setattr(evaluation, "BATCH", 13)
    (folder / "dark" / "broken.png").write_bytes(b"not an image")
    right = []

    class Watching(nn.Module):
        def forward(self, images):
            right.append(len(images))
            level = images.mean((1, 2, 3))
            return torch.stack([level, -level], dim=1)

    watching = nn.Sequential(nn.Identity(), Watching())
    with pytest.warns(rc.AnalysisWarning, match=r"broken.png is left out"):
        assert rc.accuracy(subject(watching), folder) == 1.0
    assert sum(right) == 40


def test_what_is_no_classifier_has_no_accuracy(folder):
    feature_maps = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3))
    with pytest.raises(rc.ModelError, match=r"not \(images, classes\) logits"):
        rc.accuracy(subject(feature_maps), folder)
