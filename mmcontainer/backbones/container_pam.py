"""Container-PAM (arXiv 2106.01401, section 3.3): DeiT with a static affinity beside attention."""
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import DenseTokenAffinity, Stage, TokenAttention, TokenBlock, TokenEmbed
from ..layers.memory_format import as_output
from .arch import of_stage
from .base import BaseBackbone


class TokenStage(BaseModule):
    """Embedding and blocks: images (B, C_in, H, W) to tokens (B, 1 + N, C) and (H // p, W // p)."""

    def __init__(self, patch_embed: nn.Module, blocks: nn.Module):
        super().__init__()
        self.patch_embed, self.blocks = patch_embed, blocks

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int]]:
        tokens, size = self.patch_embed(x)
        return self.blocks(tokens, size), size


@MODELS.register_module()
class ContainerPAM(BaseBackbone):
    r"""DeiT-S whose attention has a learned matrix per head added after the softmax.

    ::

        image (B, 3, H, W)
          | patches of 16 x 16, class token, position table -> tokens (B, 1 + N, C)
          | blocks: Y = (softmax(Q K^T / sqrt(D)) + A_static) V W
          | grid tokens as a map -> (B, 384, H/16, W/16)

    The only output has stride 16; both divisions round down. Position table and matrices are
    learned for 224 x 224 images, and resized bilinearly for others.

    Args:
        arch (str | dict): 'pam', or a dict with the same keys; ``static=None`` leaves DeiT's
            attention alone.
        out_type (str): 'featmap', or 'cls_token' to get the class token (B, C) in place of the map.
        *args, **kwargs: See :class:`BaseBackbone`. With ``frozen_stages=0`` the embedding is
            frozen. There are layer norms only, which ``norm_cfg`` does not concern. ``out_norm``
            must be False.

    Raises:
        ValueError: Unknown or incomplete ``arch``, bad ``out_type``; see :class:`BaseBackbone`.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import ContainerPAM
        >>> model = ContainerPAM().eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 384, 4, 6)]
    """

    arch_settings = {
        'pam': dict(embed_dims=(384, ), depths=(12, ), num_heads=(6, ), mlp_ratios=(4, ),
                    patch_sizes=(16, ), static=dict(kind='dense')),
    }
    arch_defaults = dict(image_size=224)
    default_arch = 'pam'

    def __init__(self, *args, out_type: str = 'featmap', **kwargs):
        super().__init__(*args, **kwargs)
        _check_arch(self.arch)
        if out_type not in ('featmap', 'cls_token'):
            raise ValueError(f"out_type must be 'featmap' or 'cls_token', got {out_type!r}.")
        self.out_type = out_type
        dims, heads, mlp_ratio, patch_size = (
            of_stage(self.arch[key], 0)
            for key in ('embed_dims', 'num_heads', 'mlp_ratios', 'patch_sizes'))
        grid_size = (self.arch['image_size'] // patch_size, ) * 2

        def build_attention() -> nn.Module:
            static = DenseTokenAffinity(grid_size, heads) if self.arch['static'] else None
            return TokenAttention(dims, heads, static)

        patch_embed = TokenEmbed(self.in_channels, dims, patch_size, grid_size)
        blocks = Stage(*(TokenBlock(build_attention(), dims, mlp_ratio, rate)
                         for rate in self.drop_path_rates()[0]), with_cp=self.with_cp)
        # Named as the stages of Container are.
        self.stages = ModuleList([TokenStage(patch_embed, blocks)])
        self.finish()

    def strides_of(self, arch: Mapping[str, Any]) -> tuple[int, ...]:
        return arch['patch_sizes']

    def build_final_norm(self) -> nn.Module:
        return nn.LayerNorm(self.arch['embed_dims'][-1], eps=1e-6)

    def build_out_norms(self) -> nn.ModuleDict:
        raise ValueError('out_norm must be False: ContainerPAM has one output, which final_norm '
                         'norms.')

    def stem_modules(self) -> list[nn.Module]:
        return [self.stages[0].patch_embed]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map images (B, C, H, W) to ((B, 384, H // 16, W // 16), ), or to ((B, 384), )."""
        self.check_input(x)
        tokens, size = self.stages[0](x)
        if self.norm is not None:
            tokens = self.norm(tokens)
        if self.out_type == 'cls_token':
            return (tokens[:, 0], )
        return (as_output(tokens[:, 1:].transpose(1, 2).unflatten(2, size)), )  # B N C -> B C H W


def _check_arch(arch: Mapping[str, Any]) -> None:
    """Raise a ValueError for a row whose entries do not go together."""
    if len(arch['patch_sizes']) != 1 or None in arch['num_heads']:
        raise ValueError('An arch of ContainerPAM has one stage, and a number of heads; got '
                         f'{dict(arch)}.')
    if (arch['static'] or {'kind': 'dense'}) != {'kind': 'dense'}:
        raise ValueError("The static affinity of ContainerPAM is dict(kind='dense') or None, "
                         f"got {arch['static']}.")
    if arch['image_size'] % arch['patch_sizes'][0]:
        raise ValueError('image_size of an arch must be a multiple of its patch size, got '
                         f'{arch["image_size"]} and {arch["patch_sizes"][0]}.')
