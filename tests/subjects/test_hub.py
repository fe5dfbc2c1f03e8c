"""Published weights without a network: a quick refusal, or the cache."""

import json
import shutil
import time

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from refiner_cka.errors import ModelError
from refiner_cka.subjects import resolve


class Unreachable:
    """A hub client in a place without a network; `head` is the only thing that may be asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def head(self, address: str, timeout: float) -> None:
        self.asked.append(address)
        assert 0 < timeout <= 10
        raise OSError("Name or service not known")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    client = Unreachable()
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: client)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))

    def refuse(*_arguments, **_options):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", refuse)
    return client


def fill_cache(tmp_path, module, config=None):
    """Lay out a repository as the hub's client caches it."""
    repository = tmp_path / "hub" / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    save_file(module.state_dict(), snapshot / "model.safetensors")
    if config:
        (snapshot / "config.json").write_text(json.dumps(config))
    return snapshot


def test_no_network_is_said_quickly_with_the_ways_out(offline):
    start = time.monotonic()
    with pytest.raises(ModelError) as refusal:
        resolve("vit_s")
    assert time.monotonic() - start < 5
    message = str(refusal.value)
    assert "\n" not in message
    for way in ("vit_s=FILE", "vit_s=random", "HF_HOME"):
        assert way in message
    assert offline.asked == [huggingface_hub.constants.ENDPOINT]
    with pytest.raises(ModelError, match=r"hf-hub:timm/x's .*local-dir:FOLDER"):
        resolve("hf-hub:timm/x")


def test_cached_weights_need_no_network(offline, tmp_path):
    torch.manual_seed(5)
    module = timm.create_model("test_vit")
    fill_cache(tmp_path, module)
    [subject] = resolve("test_vit")
    assert offline.asked == []
    for name, tensor in module.state_dict().items():
        assert torch.equal(subject.module.state_dict()[name], tensor)
    assert subject.origin["weights"] == "pretrained"
    assert subject.origin["model"] == "test_vit.r160_in1k"
    assert subject.origin["tensors_loaded"] == [len(module.state_dict())] * 2
    assert subject.trained
    assert subject.classes is not None
    assert "state_dict" not in subject.module.pretrained_cfg


def test_cached_weights_at_another_size_and_with_another_head(offline, tmp_path):
    module = timm.create_model("test_vit")
    fill_cache(tmp_path, module)
    [subject] = resolve("test_vit,num_classes=3", image_size=(32, 64))
    total = len(module.state_dict())
    assert subject.origin["tensors_loaded"] == [total - 2, total]
    assert subject.module(torch.zeros(1, 3, 32, 64)).shape == (1, 3)
    assert subject.classes is None


def test_a_repository_that_is_cached_whole(offline, tmp_path):
    module = timm.create_model("test_vit", num_classes=12)
    config = {"architecture": "test_vit", "num_classes": 12}
    snapshot = fill_cache(tmp_path, module, config | {"pretrained_cfg": module.pretrained_cfg})
    [subject] = resolve("hf-hub:timm/test_vit.r160_in1k")
    assert offline.asked == []
    assert subject.name == subject.origin["model"] == "hf-hub:timm/test_vit.r160_in1k"
    assert torch.equal(subject.module.head.weight, module.head.weight)
    # A copy of it in any folder, and one's own file in its architecture.
    shutil.copytree(snapshot, tmp_path / "copy")
    [copy] = resolve(f"local-dir:{tmp_path}/copy,img_size=32")
    assert copy.preprocessing.input_size == (3, 32, 32)
    assert copy.origin["sha256"] != subject.origin["sha256"]  # positions are resized
    [fine_tuned] = resolve(f"local-dir:{tmp_path}/copy={snapshot}/model.safetensors")
    assert fine_tuned.origin["sha256"] == subject.origin["sha256"]
    [untrained] = resolve("hf-hub:timm/test_vit.r160_in1k=random")
    assert not untrained.trained


def test_published_weights_that_are_damaged(offline, tmp_path):
    snapshot = fill_cache(tmp_path, timm.create_model("test_vit"))
    (snapshot / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"test_vit cannot be built") as refusal:
        resolve("test_vit")
    assert "\n" not in str(refusal.value)
