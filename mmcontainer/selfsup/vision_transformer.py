"""MMPretrain's Vision Transformer with DeiT's initialisation, and with DINO's position tables."""
import torch
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils.attention import scaled_dot_product_attention
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import fused_attention
from ..type_names import loading_entries


@MODELS.register_module()
class DeiTVisionTransformer(VisionTransformer):
    """MMPretrain's Vision Transformer that begins training as DeiT's code, and DINO's, does.

    MMPretrain's layers draw the weights of their MLPs by Xavier's rule, after any ``init_cfg`` of
    the model, and its class token begins at zero. Attention is
    :func:`mmcontainer.ops.fused_attention`, which is the faster one for bfloat16 on CPUs.

    Args:
        *args, **kwargs: See :class:`mmpretrain.models.VisionTransformer`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            if layer.attn.scaled_dot_product_attention is scaled_dot_product_attention:
                layer.attn.scaled_dot_product_attention = fused_attention

    def init_weights(self) -> None:
        """Initialise linear layers and tokens with a truncated normal, deviation 0.02."""
        super().init_weights()
        if loading_entries(self.init_cfg):
            return
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


@MODELS.register_module()
class DINOVisionTransformer(DeiTVisionTransformer):
    """Vision Transformer whose table of positions fits crops as in DINO's code.

    DINO's code resizes by a factor, (tokens + 0.1) / tokens of the table, and PyTorch takes the
    coordinates of this factor. MMPretrain resizes to a size, which gives other values. The output
    is the class token after the last norm.

    Args:
        *args, **kwargs: See :class:`mmpretrain.models.VisionTransformer`.
    """

    def resized_positions(self, height: int, width: int) -> Tensor:
        """Table of positions (1, 1 + height * width, C) for a grid of tokens."""
        if (height, width) == tuple(self.patch_resolution):
            return self.pos_embed
        tokens, table = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        rows, columns = self.patch_resolution
        grid = table.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        resized = F.interpolate(
            grid, scale_factor=((height + 0.1) / rows, (width + 0.1) / columns), mode='bicubic')
        return torch.cat((tokens, resized.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Embed images: (B, 3, H, W) -> ((B, C), )."""
        x, (height, width) = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = self.drop_after_pos(x + self.resized_positions(height, width))
        for layer in self.layers:
            x = layer(x)
        return (self.ln1(x)[:, 0], )
