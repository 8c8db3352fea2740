"""Container-Light (arXiv 2106.01401) as a multi-scale backbone."""
from collections.abc import Sequence
from typing import Union

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import ContainerBlock, ContextAggregation, PatchEmbed
from .arch import resolve_arch
from .base import BaseBackbone


class ContainerStage(BaseModule):
    """Patch embedding followed by the blocks of one stage.

    Args:
        in_channels (int): Channels of the input map.
        embed_dims (int): Channels of the stage.
        patch_size (int): Down-sampling factor of the stage.
        mlp_ratio (float): Hidden channels of the MLPs over ``embed_dims``.
        kernel_size (int): Depth-wise kernel of the static affinity.
        num_heads (int, optional): Heads of the dynamic affinity; None for a static one only.
        drop_path_rates (Sequence[float]): One rate per block; its length is the stage's depth.
        norm_cfg (dict): Config of the batch norms.
        with_cp (bool): Recompute activations in the backward pass.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, mlp_ratio: float,
                 kernel_size: int, num_heads: int, drop_path_rates: Sequence[float],
                 norm_cfg: dict, with_cp: bool):
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size)
        self.blocks = ModuleList(
            ContainerBlock(
                ContextAggregation(embed_dims, kernel_size, num_heads),
                embed_dims,
                mlp_ratio,
                drop_path_rate=rate,
                norm_cfg=norm_cfg,
                with_cp=with_cp) for rate in drop_path_rates)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return x


@MODELS.register_module()
class Container(BaseBackbone):
    r"""Container: Context Aggregation Network.

    ::

        image (B, 3, H, W)
          | patch embed /4, blocks   -> stage 0: ( 64, H/4,  W/4 )   static affinity
          | patch embed /2, blocks   -> stage 1: (128, H/8,  W/8 )   static affinity
          | patch embed /2, blocks   -> stage 2: (320, H/16, W/16)   static affinity
          | patch embed /2, blocks   -> stage 3: (512, H/32, W/32)   static + dynamic affinity

    Every division rounds down (partial patches are dropped), so the stride-4 map of a 33 x 65 image
    is 8 x 16. Any size from 32 x 32 works. In stage 3 every position attends to every other,
    padding included: an image padded in a batch gets other features than the image alone
    (``docs/numerics.md``).

    Args:
        arch (str | dict): Name of a row of ``arch_settings`` or a dict with the same keys:
            ``embed_dims``, ``depths``, ``mlp_ratios``, ``patch_sizes`` and ``num_heads`` (one entry
            per stage; ``num_heads`` None means static affinity only), and ``kernel_size``.
            'light' is the released ImageNet model (20.6 M with classifier), 'light-paper' has the
            size of the paper's tables (20.0 M).
        in_channels (int): Channels of the input image.
        out_indices (Sequence[int]): Stages to return.
        frozen_stages (int): -1 nothing; 0 the first patch embedding; k that and stages 1 ... k.
        drop_path_rate (float): Drop-path rate of the last block; grows linearly from 0.
        norm_cfg (dict): Config of the batch norms; ``requires_grad=False`` freezes affine
            parameters and statistics.
        norm_eval (bool): Keep batch norms in evaluation mode during training.
        with_cp (bool): Recompute activations in the backward pass to save memory.
        final_norm (bool): Apply the classifier's last batch norm to the output of stage 3.
        init_cfg (dict, optional): Initialisation config, see ``StrictPretrained``.

    Raises:
        ValueError: Unknown or incomplete ``arch``, bad ``out_indices`` or ``frozen_stages``; in
            ``forward``, images smaller than 32 x 32.

    Examples:
        >>> import torch
        >>> from mmcontainer.backbones import Container
        >>> model = Container('light-paper').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    arch_settings = {
        # The released code and checkpoint (allenai/container).
        'light':
        dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 8, 3),
            mlp_ratios=(8, 8, 4, 4),
            patch_sizes=(4, 2, 2, 2),
            num_heads=(None, None, None, 16),
            kernel_size=5),
        # The size of the paper's Tables 1 and 4.
        'light-paper':
        dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 8, 3),
            mlp_ratios=(4, 4, 4, 4),
            patch_sizes=(4, 2, 2, 2),
            num_heads=(None, None, None, 16),
            kernel_size=5),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'light',
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 final_norm: bool = False,
                 init_cfg=None):
        arch = resolve_arch(arch, self.arch_settings, type(self).__name__)
        depths = arch['depths']
        super().__init__(
            len(depths), out_indices, frozen_stages, norm_cfg, norm_eval, init_cfg=init_cfg)
        self.arch = arch
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(depths)
        dims = (in_channels, *arch['embed_dims'])
        self.stages = ModuleList(
            ContainerStage(
                in_channels=dims[i],
                embed_dims=dims[i + 1],
                patch_size=arch['patch_sizes'][i],
                mlp_ratio=arch['mlp_ratios'][i],
                kernel_size=arch['kernel_size'],
                num_heads=arch['num_heads'][i],
                drop_path_rates=rates[i].tolist(),
                norm_cfg=norm_cfg,
                with_cp=with_cp) for i in range(len(depths)))
        self.norm = build_norm_layer(norm_cfg, dims[-1])[1] if final_norm else None
        self.freeze()

    def stem_modules(self) -> list[nn.Module]:
        return [self.stages[0].patch_embed]

    def stage_modules(self, stage: int) -> list[nn.Module]:
        return [self.stages[stage]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to the chosen stages' maps (B, C_i, H / s_i, W / s_i)."""
        self.check_input(x)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            x = self.stages[i](x)
            if i == len(self.stages) - 1 and self.norm is not None:
                x = self.norm(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


@MODELS.register_module()
class ContainerLight(Container):
    """:class:`Container` with ``arch='light'``: dynamic affinity in the last stage only."""
