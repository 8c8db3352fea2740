"""Container-Light as one writes it down from its description: NCHW and ordinary operators.

A stand-in for the official code. It takes the weights of a backbone of this package, so that both
compute the same numbers and only the way of computing differs: feature maps stay in NCHW, the layer
norm of a patch embedding works on a sequence, attention builds its N x N matrix, norms and
residuals are operators of their own.
"""
import copy

import torch
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from mmcontainer.backbones import Container
from mmcontainer.layers import ContainerBlock, DepthwiseAffinity, PatchEmbed


class PlainPatchEmbed(nn.Module):
    """Strided convolution, then layer norm over the channels of a sequence of positions."""

    def __init__(self, patch_embed: PatchEmbed):
        super().__init__()
        self.proj, self.norm = patch_embed.proj, patch_embed.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        batch, _, height, width = x.shape
        x = nn.LayerNorm.forward(self.norm, x.flatten(2).transpose(1, 2))  # B C H W -> B N C
        return x.reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()


def ordinary_depthwise(weight: nn.Parameter, bias: nn.Parameter) -> nn.Conv2d:
    """PyTorch's own convolution with these parameters."""
    channels, size = len(weight), weight.shape[-1]
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
    conv.weight, conv.bias = weight, bias
    return conv


class PlainBlock(nn.Module):
    """The residual block of stages 1 to 3 (one affinity) and of stage 4 (both).

    Raises:
        ValueError: If it is no block of Container-Light.
    """

    def __init__(self, block: ContainerBlock):
        super().__init__()
        mixer = block.aggregation
        if type(block) is not ContainerBlock or block.pos_embed is None or not isinstance(
                mixer.static, DepthwiseAffinity) or mixer.static.head_dim > 1:
            raise ValueError('A block of Container-Light in its training form is expected: its '
                             'static affinity is a depth-wise convolution.')
        self.num_heads = mixer.num_heads
        self.pos_embed = ordinary_depthwise(block.pos_embed.weight, block.pos_embed.bias)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.in_proj, self.out_proj = mixer.in_proj, mixer.out_proj
        self.depthwise = ordinary_depthwise(mixer.static.weight, mixer.static.bias)
        if self.num_heads:
            self.mix_logit = mixer.mix_logit
        self.fc1, self.act, self.fc2 = block.mlp.fc1, nn.GELU(), block.mlp.fc2
        self.drop_path = block.drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.out_proj(self.aggregate(self.in_proj(self.norm1(x)))))
        return x + self.drop_path(self.fc2(self.act(self.fc1(self.norm2(x)))))

    def aggregate(self, x: Tensor) -> Tensor:
        """Collect from other positions: by convolution, and in stage 4 by attention too."""
        if not self.num_heads:
            return self.depthwise(x)
        batch, channels, height, width = x.shape
        channels //= 3
        # B 3C H W -> 3 B M N D
        query, key, value = x.reshape(batch, 3, self.num_heads, channels // self.num_heads,
                                      height * width).permute(1, 0, 2, 4, 3)
        scale = query.shape[-1]**-0.5
        affinity = (query @ key.transpose(-2, -1) * scale).softmax(dim=-1)
        dynamic = (affinity @ value).transpose(-2, -1).reshape(batch, channels, height, width)
        static = self.depthwise(x[:, 2 * channels:])
        alpha = self.mix_logit.sigmoid()
        return alpha * dynamic + (1 - alpha) * static


class PlainContainerLight(nn.Module):
    """All stages of a Container-Light.

    Args:
        backbone (Container): In its training form; its weights are copied.

    Raises:
        ValueError: If it has other affinities than Container-Light.
    """

    def __init__(self, backbone: Container):
        super().__init__()
        # On their way through a channels_last model weights may have taken that format.
        backbone = copy.deepcopy(backbone).to(memory_format=torch.contiguous_format)
        if backbone.norm is not None or any(
                stage.pos_table is not None for stage in backbone.stages):
            raise ValueError('Container-Light without its last norm is expected.')
        self.norm_eval, self.out_indices = backbone.norm_eval, backbone.out_indices
        self.stages = nn.ModuleList(
            nn.Sequential(PlainPatchEmbed(stage.patch_embed),
                          *(PlainBlock(block) for block in stage.blocks))
            for stage in backbone.stages)
        self.train(backbone.training)

    def train(self, mode: bool = True) -> 'PlainContainerLight':
        super().train(mode)
        for module in self.modules():
            if self.norm_eval and isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the maps of the chosen stages, contiguous in NCHW."""
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.stages[i](x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
