"""Vision networks of timm, Hugging Face and torchvision, and which of their modules are their blocks.

How many blocks a network has is what its source says (depths, configurations of stages), not what the finder finds;
timm's were compared with its functions one by one. What may be seen in more than one way is seen so:

- Blocks are the units that the stages repeat; where each adds to its input, these are them. Stems, downsampling and
  reductions between stages, and 1x1 convolutions after them, are not.
- A dense network's blocks are its dense layers (`densenet`) or dense blocks (`rdnet`), an Inception's its modules
  A, B and C.
- Where branches of several resolutions exchange what they know (`hrnet`, `crossvit`), the multi-scale module is the
  block.
- Blocks of class attention after the others (`cait`, `volo`, `xcit`) count; networks in the patch embedding
  (`vitamin`, hybrid ViTs) do not.
- A network of nothing but convolutions has these (`vgg`).

Every network can be built on the meta device in a moment, and for real with random weights in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

Library = Literal["timm", "transformers", "torchvision"]


@dataclass(frozen=True)
class Network:
    """A network and its blocks.

    Attributes:
        library: where it comes from.
        module: the module of `timm.models` or `torchvision.models` it is in, or its configuration class in
            transformers.
        name: the model of timm or torchvision, or the model class of transformers.
        blocks: how many blocks it has.
        first: path of the first block, in the order of the forward pass.
        last: path of the last.
        size: height and width of its images; 0: what timm's configuration says.
        arguments: passed to its function, or to its configuration class.
        remedy: `--layers` that names the blocks to read where some return what an earlier one returned.
        sampled: whether `make test` tries it.
    """

    library: Library
    module: str
    name: str
    blocks: int
    first: str
    last: str
    size: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    sampled: bool = False

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        if self.size:
            return 3, self.size, self.size
        import timm

        channels, height, width = timm.models.get_pretrained_cfg(self.name).input_size
        return channels, height, width

    def build(self, device: str = "cpu") -> nn.Module:
        """Return the network in evaluation mode, with random weights from torch's global generator.

        Args:
            device: `meta` for its structure alone.
        """
        with torch.device(device):
            return _BUILDERS[self.library](self).eval()


def _timm(network: Network) -> nn.Module:
    import timm

    built: nn.Module = timm.create_model(network.name, **network.arguments)
    return built


def _transformers(network: Network) -> nn.Module:
    import transformers

    config = getattr(transformers, network.module)(**network.arguments)
    built: nn.Module = getattr(transformers, network.name)(config)
    return built


def _torchvision(network: Network) -> nn.Module:
    import torchvision

    # Some initialise their weights through NumPy, which there is no meta device for.
    with torch.device("cpu"):
        built: nn.Module = torchvision.models.get_model(
            network.name, weights=None, **network.arguments
        )
    return built.to(torch.get_default_device())


_BUILDERS = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision}


_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 64,
}
_SWIN = {
    "image_size": 64,
    "embed_dim": 24,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
}
_CONVNEXT = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 2, 3, 1]}
_PYRAMID = {
    "hidden_sizes": [16, 32, 48, 64],
    "num_attention_heads": [1, 2, 3, 4],
    "depths": [1, 2, 3, 1],
}

# One line each, so that a search finds all of it.
# fmt: off
NETWORKS = (
    # timm: every module that registers models, with a second where its architectures differ.
    Network("timm", "beit", "beit_base_patch16_224", 12, "blocks.0", "blocks.11", 96, {"img_size": 96}),
    Network("timm", "byoanet", "eca_botnext26ts_256", 8, "stages.0.0", "stages.3.1"),
    Network("timm", "byoanet", "halonet_h1", 19, "stages.0.0", "stages.3.2"),
    Network("timm", "byoanet", "haloregnetz_b", 22, "stages.0.0", "stages.3.1"),
    Network("timm", "byoanet", "lambda_resnet26t", 8, "stages.0.0", "stages.3.1"),
    Network("timm", "byobnet", "mobileone_s1", 42, "stages.0.0", "stages.3.1", sampled=True),
    Network("timm", "byobnet", "repvgg_a0", 21, "stages.0.0", "stages.3.0"),
    Network("timm", "byobnet", "gernet_s", 14, "stages.0.0", "stages.4.0"),
    Network("timm", "byobnet", "resnet51q", 16, "stages.0.0", "stages.3.3"),
    Network("timm", "byobnet", "regnetz_b16", 22, "stages.0.0", "stages.3.1"),
    Network("timm", "cait", "cait_xxs24_224", 26, "blocks.0", "blocks_token_only.1", sampled=True),
    Network("timm", "coat", "coat_lite_tiny", 8, "serial_blocks1.0", "serial_blocks4.1"),
    # Its parallel blocks return four scales, the first of them as they got it.
    Network("timm", "coat", "coat_tiny", 14, "serial_blocks1.0", "parallel_blocks.5", remedy="serial_blocks*.?"),
    Network("timm", "convit", "convit_tiny", 12, "blocks.0", "blocks.11"),
    Network("timm", "convmixer", "convmixer_768_32", 32, "blocks.0", "blocks.31"),
    Network("timm", "convnext", "convnext_atto", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "convnext", "convnext_zepto_rms", 10, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "cpubone", "cpubone_nano", 7, "stages.0.0", "stages.3.2"),
    Network("timm", "crossvit", "crossvit_tiny_240", 3, "blocks.0", "blocks.2", sampled=True),
    Network("timm", "crossvit", "crossvit_9_dagger_240", 3, "blocks.0", "blocks.2"),
    Network("timm", "csatv2", "csatv2", 18, "stages.0.0", "stages.3.6", sampled=True),
    Network("timm", "cspnet", "cs3darknet_s", 9, "stages.0.blocks.0", "stages.3.blocks.0"),
    Network("timm", "cspnet", "cspdarknet53", 23, "stages.0.blocks.0", "stages.4.blocks.3"),
    Network("timm", "cspnet", "cspresnet50", 13, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "cspnet", "darknet17", 5, "stages.0.blocks.0", "stages.4.blocks.0"),
    Network("timm", "cspnext", "cspnext_tiny", 4, "stages.0.1.blocks.0", "stages.3.2.blocks.0"),
    Network("timm", "davit", "davit_tiny", 12, "stages.0.blocks.0.0", "stages.3.blocks.0.1"),
    Network("timm", "deepseek_vit", "deepseek_vit_412m", 32, "encoder.blocks.0", "encoder.blocks.31", 84, {"img_size": 84}),
    Network("timm", "deit", "deit_tiny_patch16_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "deit", "deit_tiny_distilled_patch16_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "densenet", "densenet121", 58, "features.denseblock1.denselayer1", "features.denseblock4.denselayer16"),
    Network("timm", "dla", "dla46x_c", 12, "level2.tree1", "level5.tree2", sampled=True),
    Network("timm", "dla", "dla34", 12, "level2.tree1", "level5.tree2"),
    Network("timm", "dla", "dla60_res2net", 16, "level2.tree1", "level5.tree2"),
    Network("timm", "dpn", "dpn48b", 16, "features.conv2_1", "features.conv5_3"),
    Network("timm", "dpn", "dpn68", 22, "features.conv2_1", "features.conv5_3"),
    Network("timm", "edgenext", "edgenext_xx_small", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "efficientformer", "efficientformer_l1", 15, "stages.0.blocks.0", "stages.3.blocks.4"),
    Network("timm", "efficientformer_v2", "efficientformerv2_s0", 14, "stages.0.blocks.0", "stages.3.blocks.3"),
    Network("timm", "efficientnet", "tinynet_e", 10, "blocks.0.0", "blocks.6.0"),
    Network("timm", "efficientnet", "efficientnet_lite0", 16, "blocks.0.0", "blocks.6.0"),
    Network("timm", "efficientnet", "efficientnetv2_rw_t", 39, "blocks.0.0", "blocks.5.13", sampled=True),
    Network("timm", "efficientnet", "mobilenet_edgetpu_v2_xs", 19, "blocks.1.0", "blocks.6.0"),
    Network("timm", "efficientnet", "mnasnet_small", 15, "blocks.0.0", "blocks.6.0"),
    Network("timm", "efficientnet", "mixnet_s", 16, "blocks.0.0", "blocks.5.2"),
    Network("timm", "efficientnet", "mobilenetv2_035", 17, "blocks.0.0", "blocks.6.0"),
    Network("timm", "efficientvim", "efficientvim_m1", 6, "stages.0.blocks.0", "stages.2.blocks.1"),
    Network("timm", "efficientvit_mit", "efficientvit_b0", 10, "stages.0.blocks.0", "stages.3.blocks.2"),
    Network("timm", "efficientvit_mit", "efficientvit_l1", 18, "stages.0.blocks.0", "stages.3.blocks.6"),
    Network("timm", "efficientvit_msra", "efficientvit_m0", 6, "stages.0.blocks.0", "stages.2.blocks.2"),
    Network("timm", "eva", "eva02_tiny_patch14_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "eva", "vit_tiny_patch16_dinov3_qkvb", 12, "blocks.0", "blocks.11"),
    Network("timm", "fasternet", "fasternet_t0", 13, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "fastvit", "fastvit_t8", 10, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "focalnet", "focalnet_tiny_srf", 12, "layers.0.blocks.0", "layers.3.blocks.1"),
    Network("timm", "gcvit", "gcvit_xxtiny", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "gemma4_vit", "gemma4_vit_167m", 16, "encoder.blocks.0", "encoder.blocks.15", 96, {"img_size": 96}),
    Network("timm", "ghostnet", "ghostnet_050", 16, "blocks.0.0", "blocks.8.3", sampled=True),
    Network("timm", "ghostnet", "ghostnetv2_100", 16, "blocks.0.0", "blocks.8.3"),
    Network("timm", "ghostnet", "ghostnetv3_050", 16, "blocks.0.0", "blocks.8.3"),
    Network("timm", "hardcorenas", "hardcorenas_a", 11, "blocks.0.0", "blocks.5.1"),
    Network("timm", "hgnet", "hgnetv2_b0", 5, "stages.0.blocks.0", "stages.3.blocks.0"),
    Network("timm", "hgnet", "hgnet_tiny", 5, "stages.0.blocks.0", "stages.3.blocks.0"),
    Network("timm", "hiera", "hiera_tiny_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "hieradet_sam2", "sam2_hiera_tiny", 12, "blocks.0", "blocks.11"),
    Network("timm", "hrnet", "hrnet_w18_small", 4, "layer1.0", "stage4.0"),
    Network("timm", "hrnet", "hrnet_w18", 12, "layer1.0", "stage4.2", sampled=True),
    Network("timm", "iformer", "iformer_t", 26, "stages.0.blocks.0", "stages.3.blocks.5"),
    Network("timm", "inception_next", "inception_next_atto", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "inception_resnet_v2", "inception_resnet_v2", 40, "repeat.0", "block8", 160, sampled=True),
    Network("timm", "inception_v3", "inception_v3", 9, "Mixed_5b", "Mixed_7c"),
    Network("timm", "inception_v4", "inception_v4", 14, "features.6", "features.21", 160, sampled=True),
    Network("timm", "lcnetv2", "lcnetv2_small", 10, "stages.0.0", "stages.3.1"),
    Network("timm", "levit", "levit_128s", 9, "stages.0.blocks.0", "stages.2.blocks.3"),
    Network("timm", "lowformer", "lowformer_b0", 11, "stages.0.0", "stages.3.4"),
    Network("timm", "mambaout", "mambaout_femto", 18, "stages.0.blocks.0", "stages.3.blocks.2"),
    Network("timm", "maxxvit", "maxvit_pico_rw_256", 11, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "maxxvit", "coatnet_pico_rw_224", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "maxxvit", "maxxvit_rmlp_nano_rw_256", 7, "stages.0.blocks.0", "stages.3.blocks.0"),
    Network("timm", "metaformer", "poolformer_s12", 12, "stages.0.blocks.0", "stages.3.blocks.1", sampled=True),
    Network("timm", "metaformer", "caformer_s18", 18, "stages.0.blocks.0", "stages.3.blocks.2"),
    Network("timm", "mlp_mixer", "gmlp_ti16_224", 30, "blocks.0", "blocks.29"),
    Network("timm", "mlp_mixer", "gmixer_12_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "mlp_mixer", "resmlp_12_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "mlp_mixer", "mixer_s32_224", 8, "blocks.0", "blocks.7"),
    Network("timm", "mobilenetv3", "mobilenetv3_small_050", 11, "blocks.0.0", "blocks.4.2", sampled=True),
    Network("timm", "mobilenetv3", "lcnet_035", 13, "blocks.0.0", "blocks.5.1"),
    Network("timm", "mobilenetv3", "fbnetv3_b", 29, "blocks.0.0", "blocks.5.6"),
    Network("timm", "mobilenetv3", "mobilenetv4_conv_small_035", 12, "blocks.2.0", "blocks.3.5"),
    Network("timm", "mobilenetv3", "mobilenetv4_hybrid_medium", 31, "blocks.0.0", "blocks.3.15"),
    Network("timm", "mobilenetv5", "mobilenetv5_base", 39, "blocks.0.0", "blocks.3.14", 128),
    Network("timm", "mobilevit", "mobilevit_xxs", 10, "stages.0.0", "stages.4.1", sampled=True),
    Network("timm", "mobilevit", "mobilevitv2_050", 9, "stages.0.0", "stages.4.1"),
    Network("timm", "mvitv2", "mvitv2_tiny", 10, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "naflexvit", "naflexvit_base_patch16_gap", 12, "blocks.0", "blocks.11", 96),
    Network("timm", "nasnet", "nasnetalarge", 18, "cell_0", "cell_17", 160),
    Network("timm", "nest", "nest_tiny", 12, "levels.0.transformer_encoder.0", "levels.2.transformer_encoder.7"),
    Network("timm", "nextvit", "nextvit_small", 20, "stages.0.blocks.0", "stages.3.blocks.2"),
    Network("timm", "nfnet", "nf_regnet_b0", 16, "stages.0.0", "stages.3.5"),
    Network("timm", "nfnet", "nf_resnet26", 8, "stages.0.0", "stages.3.1"),
    Network("timm", "pit", "pit_ti_224", 12, "transformers.0.blocks.0", "transformers.2.blocks.3"),
    Network("timm", "pnasnet", "pnasnet5large", 12, "cell_0", "cell_11", 160),
    Network("timm", "pvt_v2", "pvt_v2_b0", 8, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "qwen3_vit", "qwen3_vit_88m", 12, "encoder.blocks.0", "encoder.blocks.11", 64, {"img_size": 64}),
    Network("timm", "rdnet", "rdnet_tiny", 21, "dense_stages.0.0.dense_block0", "dense_stages.6.2.dense_block2", sampled=True),
    Network("timm", "regnet", "regnetx_002", 13, "s1.b1", "s4.b7", sampled=True),
    Network("timm", "regnet", "regnety_002", 13, "s1.b1", "s4.b7"),
    Network("timm", "repghost", "repghostnet_050", 16, "blocks.0.0", "blocks.8.3"),
    Network("timm", "repvit", "repvit_m0_9", 20, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "res2net", "res2net50_14w_8s", 16, "layer1.0", "layer4.2"),
    Network("timm", "resnest", "resnest14d", 4, "layer1.0", "layer4.0"),
    Network("timm", "resnet", "resnet10t", 4, "layer1.0", "layer4.0", sampled=True),
    Network("timm", "resnet", "resnet18", 8, "layer1.0", "layer4.1"),
    Network("timm", "resnet", "resnet50", 16, "layer1.0", "layer4.2"),
    Network("timm", "resnetv2", "resnetv2_18", 8, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "rexnet", "rexnet_100", 16, "features.0", "features.15"),
    Network("timm", "selecsls", "selecsls42", 6, "features.0", "features.5"),
    Network("timm", "senet", "legacy_seresnet18", 8, "layer1.0", "layer4.1"),
    Network("timm", "sequencer", "sequencer2d_s", 18, "stages.0.blocks.0", "stages.3.blocks.2"),
    Network("timm", "shvit", "shvit_s1", 11, "stages.0.blocks.0", "stages.2.blocks.4"),
    Network("timm", "sknet", "skresnet18", 8, "layer1.0", "layer4.1"),
    Network("timm", "starnet", "starnet_s050", 6, "stages.0.1", "stages.3.1", sampled=True),
    Network("timm", "swiftformer", "swiftformer_xs", 16, "stages.0.blocks.0", "stages.3.blocks.3"),
    Network("timm", "swin_transformer", "swin_tiny_patch4_window7_224", 12, "layers.0.blocks.0", "layers.3.blocks.1", sampled=True),
    Network("timm", "swin_transformer_v2", "swinv2_tiny_window8_256", 12, "layers.0.blocks.0", "layers.3.blocks.1"),
    Network("timm", "swin_transformer_v2_cr", "swinv2_cr_tiny_224", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "tiny_vit", "tiny_vit_5m_224", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "tnt", "tnt_s_patch16_224", 12, "blocks.0", "blocks.11", sampled=True),
    Network("timm", "tresnet", "tresnet_m", 21, "body.layer1.0", "body.layer4.2"),
    Network("timm", "twins", "twins_pcpvt_small", 16, "blocks.0.0", "blocks.3.2"),
    Network("timm", "twins", "twins_svt_small", 18, "blocks.0.0", "blocks.3.3"),
    Network("timm", "vgg", "vgg11", 8, "features.0", "features.18", sampled=True),
    Network("timm", "visformer", "visformer_tiny", 15, "stage1.0", "stage3.3"),
    Network("timm", "vision_transformer", "vit_tiny_patch16_224", 12, "blocks.0", "blocks.11", sampled=True),
    Network("timm", "vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "vision_transformer_relpos", "vit_relpos_small_patch16_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "vision_transformer_relpos", "vit_srelpos_small_patch16_224", 12, "blocks.0", "blocks.11"),
    Network("timm", "vision_transformer_sam", "samvit_base_patch16_224", 12, "blocks.0", "blocks.11", 96, {"img_size": 96}),
    Network("timm", "vitamin", "vitamin_small_224", 14, "blocks.0", "blocks.13"),
    Network("timm", "volo", "volo_d1_224", 20, "network.0.0", "post_network.1"),
    Network("timm", "vovnet", "ese_vovnet19b_slim_dw", 4, "stages.0.blocks.0", "stages.3.blocks.0"),
    Network("timm", "vovnet", "vovnet39a", 6, "stages.0.blocks.0", "stages.3.blocks.1"),
    Network("timm", "xception", "legacy_xception", 12, "block1", "block12"),
    Network("timm", "xception_aligned", "xception41p", 13, "blocks.0", "blocks.12"),
    Network("timm", "xcit", "xcit_nano_12_p16_224", 14, "blocks.0", "cls_attn_blocks.1"),
    # transformers: small ones, of the depths given.
    Network("transformers", "ViTConfig", "ViTModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "DeiTConfig", "DeiTModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "BeitConfig", "BeitModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "Dinov2Config", "Dinov2Model", 4, "encoder.layer.0", "encoder.layer.3", 56, {**_VIT, "image_size": 56}),
    Network("transformers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", 4, "encoder.layer.0", "encoder.layer.3", 56, {**_VIT, "image_size": 56}),
    Network("transformers", "DINOv3ViTConfig", "DINOv3ViTModel", 4, "model.layer.0", "model.layer.3", 64, _VIT),
    Network("transformers", "DINOv3ConvNextConfig", "DINOv3ConvNextModel", 7, "model.stages.0.layers.0", "model.stages.3.layers.0", 64, _CONVNEXT),
    Network("transformers", "IJepaConfig", "IJepaModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "ViTMAEConfig", "ViTMAEModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "ViTMSNConfig", "ViTMSNModel", 4, "layers.0", "layers.3", 64, _VIT),
    Network("transformers", "Data2VecVisionConfig", "Data2VecVisionModel", 4, "encoder.layer.0", "encoder.layer.3", 64, _VIT),
    Network("transformers", "CLIPVisionConfig", "CLIPVisionModel", 4, "encoder.layers.0", "encoder.layers.3", 64, _VIT),
    Network("transformers", "SiglipVisionConfig", "SiglipVisionModel", 4, "encoder.layers.0", "encoder.layers.3", 64, _VIT),
    Network("transformers", "SwinConfig", "SwinModel", 6, "encoder.layers.0.blocks.0", "encoder.layers.2.blocks.1", 64, _SWIN),
    Network("transformers", "Swinv2Config", "Swinv2Model", 6, "encoder.layers.0.blocks.0", "encoder.layers.2.blocks.1", 64, _SWIN),
    Network("transformers", "ConvNextConfig", "ConvNextModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, _CONVNEXT),
    Network("transformers", "ConvNextV2Config", "ConvNextV2Model", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, _CONVNEXT),
    Network("transformers", "ResNetConfig", "ResNetModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 2, 3, 1]}),
    Network("transformers", "RegNetConfig", "RegNetModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 2, 3, 1], "groups_width": 8}),
    Network("transformers", "BitConfig", "BitModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 3, 1], "num_groups": 8}),
    Network("transformers", "EfficientNetConfig", "EfficientNetModel", 16, "encoder.blocks.0", "encoder.blocks.15", 64, {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}),
    Network("transformers", "MobileNetV1Config", "MobileNetV1Model", 26, "layer.0", "layer.25", 64, {"depth_multiplier": 0.25}, sampled=True),
    Network("transformers", "MobileNetV2Config", "MobileNetV2Model", 16, "layer.0", "layer.15", 64, {"depth_multiplier": 0.35}),
    Network("transformers", "MobileViTConfig", "MobileViTModel", 7, "encoder.layer.0.layer.0", "encoder.layer.4", 64, {"image_size": 64, "hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 96]}, sampled=True),
    Network("transformers", "MobileViTV2Config", "MobileViTV2Model", 6, "encoder.layer.0.layer.0", "encoder.layer.4", 64, {"width_multiplier": 0.5}),
    Network("transformers", "LevitConfig", "LevitModel", 26, "encoder.stages.0.layers.0", "encoder.stages.2.layers.7", 224, sampled=True),
    Network("transformers", "PvtConfig", "PvtModel", 7, "encoder.block.0.0", "encoder.block.3.0", 64, {**_PYRAMID, "image_size": 64}),
    Network("transformers", "PvtV2Config", "PvtV2Model", 7, "encoder.layers.0.blocks.0", "encoder.layers.3.blocks.0", 64, {**_PYRAMID, "image_size": 64}),
    Network("transformers", "SegformerConfig", "SegformerModel", 7, "stages.0.blocks.0", "stages.3.blocks.0", 64, _PYRAMID),
    Network("transformers", "PoolFormerConfig", "PoolFormerModel", 7, "encoder.block.0.0", "encoder.block.3.0", 64, {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 3, 1]}),
    Network("transformers", "CvtConfig", "CvtModel", 6, "encoder.stages.0.layers.0", "encoder.stages.2.layers.2", 64, {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}),
    Network("transformers", "HieraConfig", "HieraModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 224, {"embed_dim": 24, "depths": [1, 2, 3, 1]}),
    Network("transformers", "FocalNetConfig", "FocalNetModel", 7, "encoder.stages.0.layers.0", "encoder.stages.3.layers.0", 64, {"image_size": 64, "embed_dim": 16, "depths": [1, 2, 3, 1]}),
    Network("transformers", "SwiftFormerConfig", "SwiftFormerModel", 16, "encoder.network.0.blocks.0", "encoder.network.6.blocks.3", 224, sampled=True),
    Network("transformers", "TextNetConfig", "TextNetModel", 15, "encoder.stages.0.stage.0", "encoder.stages.3.stage.3", 64),
    # torchvision.
    Network("torchvision", "resnet", "resnet18", 8, "layer1.0", "layer4.1", 64),
    Network("torchvision", "vision_transformer", "vit_b_16", 12, "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", 96, {"image_size": 96}),
    Network("torchvision", "swin_transformer", "swin_t", 12, "features.1.0", "features.7.1", 224, sampled=True),
    Network("torchvision", "swin_transformer", "swin_v2_t", 12, "features.1.0", "features.7.1", 256),
    Network("torchvision", "convnext", "convnext_tiny", 18, "features.1.0", "features.7.2", 64),
    Network("torchvision", "efficientnet", "efficientnet_b0", 16, "features.1.0", "features.7.0", 64),
    Network("torchvision", "efficientnet", "efficientnet_v2_s", 40, "features.1.0", "features.6.14", 64, sampled=True),
    Network("torchvision", "mobilenetv2", "mobilenet_v2", 17, "features.1", "features.17", 64),
    Network("torchvision", "mobilenetv3", "mobilenet_v3_small", 11, "features.1", "features.11", 64),
    Network("torchvision", "regnet", "regnet_y_400mf", 16, "trunk_output.block1.block1-0", "trunk_output.block4.block4-5", 64),
    Network("torchvision", "densenet", "densenet121", 58, "features.denseblock1.denselayer1", "features.denseblock4.denselayer16", 64, sampled=True),
    Network("torchvision", "maxvit", "maxvit_t", 11, "blocks.0.layers.0", "blocks.3.layers.1", 224, sampled=True),
    Network("torchvision", "googlenet", "googlenet", 9, "inception3a", "inception5b", 64, {"init_weights": False}, sampled=True),
    Network("torchvision", "inception", "inception_v3", 9, "Mixed_5b", "Mixed_7c", 299, {"init_weights": False}),
    Network("torchvision", "squeezenet", "squeezenet1_1", 8, "features.3", "features.12", 64),
    Network("torchvision", "shufflenetv2", "shufflenet_v2_x0_5", 16, "stage2.0", "stage4.3", 64),
    Network("torchvision", "mnasnet", "mnasnet0_5", 16, "layers.8.0", "layers.13.0", 64),
    Network("torchvision", "vgg", "vgg11", 8, "features.0", "features.18", 64, {"init_weights": False}),
    Network("torchvision", "alexnet", "alexnet", 5, "features.0", "features.10", 64),
)
# fmt: on
