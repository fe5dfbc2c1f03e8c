"""Why a network does not run on images."""

import pytest
import torch
from torch import nn

import refiner_cka as rc
from refiner_cka.subjects.failing import why_it_fails


class TextAndImages(nn.Module):
    """Takes its images by a keyword, after text, and has a tower for each."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model = nn.Sequential(nn.Embedding(4, 4))
        self.vision_model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 2))

    def forward(self, input_ids=None, pixel_values=None):
        return self.vision_model(pixel_values).mean() + self.text_model(input_ids).shape[1]


class TextAlone(nn.Module):
    def forward(self, input_ids, pixel_values=None):
        return pixel_values.shape


def test_a_model_of_text_and_images_is_told_to_give_its_vision_tower():
    line = r"TextAndImages takes more than images: give its vision tower, model\.vision_model \(a Sequential\)$"
    subject = rc.Subject.from_module(TextAndImages(), ["vision_model.0", "vision_model.1"])
    with pytest.raises(rc.ModelError, match=line) as caught:
        rc.analyze(subject, torch.rand(8, 3, 6, 6), batch_size=4)
    assert "\n" not in str(caught.value)


def test_the_line_for_other_failures():
    error = RuntimeError("first\nsecond")
    nested = nn.ModuleDict({"model": TextAndImages()})
    assert "model.model.vision_model (a Sequential)" in why_it_fails(nested, error)
    assert why_it_fails(TextAlone(), error).endswith("give the part of it that takes images alone")
    assert why_it_fails(nn.Linear(2, 2), error) == "first"


def test_clip_of_hugging_face():
    from transformers import CLIPConfig, CLIPModel

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(text_config=small, vision_config=small))
    assert why_it_fails(model, AttributeError("'NoneType' object has no attribute 'shape'")) == (
        "CLIPModel takes more than images: give its vision tower, model.vision_model (a CLIPVisionModel)"
    )
