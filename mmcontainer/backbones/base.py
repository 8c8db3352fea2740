"""What every backbone of this package does alike: outputs, freezing, initialisation, deployment."""
from collections.abc import Iterable, Sequence
from typing import Optional

import torch
from mmengine.model import BaseModule, initialize, update_init_info
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..errors import ConfigError
from ..type_names import type_name
from .arguments import check_drop_path_rate, check_in_channels, check_norm_cfg


class BaseBackbone(BaseModule):
    """Staged backbone with multi-scale output.

    A subclass builds its stages, defines ``stem_modules()`` and ``stage_modules(stage)`` (what
    ``frozen_stages`` freezes) and ``forward``, calls ``self.freeze()`` at the end of its
    constructor, and lets its blocks have ``switch_to_deploy()``.

    Args:
        strides (Sequence[int]): Down-sampling factor of every stage's output.
        out_indices (Sequence[int], optional): Stages whose output is returned, 0-based, in
            ascending order; all without it.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k > 0 the stem and the first k stages:
            no gradients, and norms keep their statistics.
        norm_cfg (dict): Config of the norms. With ``requires_grad=False`` norms are frozen
            entirely: affine parameters and, unlike in MMDetection's ResNet, running statistics.
        norm_eval (bool): Keep all batch norms in evaluation mode (fixed statistics) in training.
        in_channels (int): Channels of the input image.
        drop_path_rate (float): Drop-path rate of the last block, 0 <= rate < 1.
        init_cfg (dict | list[dict], optional): Initialisation config. A ``StrictPretrained`` entry
            is applied after everything else.

    Raises:
        ValueError: If an argument is of the wrong type or out of range.
    """

    def __init__(self,
                 strides: Sequence[int],
                 out_indices: Optional[Sequence[int]],
                 frozen_stages: int,
                 norm_cfg: dict,
                 norm_eval: bool,
                 in_channels: int,
                 drop_path_rate: float,
                 init_cfg=None):
        super().__init__(init_cfg)
        num_stages = len(strides)
        if out_indices is None:
            out_indices = range(num_stages)
        indices = list(out_indices) if isinstance(out_indices, Iterable) else [out_indices]
        if not indices or indices != sorted(set(indices) & set(range(num_stages))):
            raise ValueError(f'out_indices must be ascending stage numbers out of 0 ... '
                             f'{num_stages - 1}, without repetition, got {out_indices!r}.')
        if frozen_stages not in range(-1, num_stages + 1):
            raise ValueError(f'frozen_stages must be -1 (none), 0 (stem) or 1 ... {num_stages} '
                             f'(stem and that many stages), got {frozen_stages!r}.')
        check_norm_cfg(norm_cfg)
        check_in_channels(in_channels)
        check_drop_path_rate(drop_path_rate)
        self.in_channels = in_channels
        self.strides = tuple(strides)
        self.out_indices: tuple[int, ...] = tuple(indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval or not norm_cfg.get('requires_grad', True)

    def stem_modules(self) -> list[nn.Module]:
        """Modules that ``frozen_stages >= 0`` freezes."""
        raise NotImplementedError

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """Modules of stage ``stage`` (0-based), frozen when ``stage < frozen_stages``."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Freeze the stem and the first ``frozen_stages`` stages."""
        if self.frozen_stages < 0:
            return
        modules = self.stem_modules()
        for stage in range(self.frozen_stages):
            modules = modules + self.stage_modules(stage)
        for module in modules:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Set training mode, except for what is frozen."""
        super().train(mode)
        if mode:
            self.freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def init_weights(self) -> None:
        """Initialise children first and load ``StrictPretrained`` weights last.

        MMEngine gives only ``type='Pretrained'`` that precedence; any other initialiser runs before
        the children's, which would overwrite loaded weights without a word.
        """
        init_cfgs = self.init_cfg or []
        init_cfgs = [init_cfgs] if isinstance(init_cfgs, dict) else list(init_cfgs)
        strict = [cfg for cfg in init_cfgs if type_name(cfg['type']) == 'StrictPretrained']
        if not strict or self._is_init:
            super().init_weights()
            return
        original = self.init_cfg
        self.init_cfg = [cfg for cfg in init_cfgs if cfg not in strict]
        try:
            super().init_weights()
        finally:
            self.init_cfg = original
        initialize(self, strict)
        if hasattr(self, '_params_init_info'):  # part of a bigger model that logs initialisation
            update_init_info(self, f'Loaded by {strict[-1]}')

    def switch_to_deploy(self) -> 'BaseBackbone':
        """Re-parameterise in place for inference and return the model, in evaluation mode.

        Norms and identities are folded into convolutions: outputs stay equal up to rounding,
        running statistics are gone. A deployed model can neither be trained on nor load ordinary
        weights.
        """
        self.eval()
        self.fold_stem()
        for module in self.modules():
            if module is not self and hasattr(module, 'switch_to_deploy'):
                module.switch_to_deploy()
        return self.eval()  # what took the place of a norm is in training mode when it is made

    def fold_stem(self) -> None:
        """Fold what is part of no block, in place; a second call changes nothing."""

    def check_input(self, x: Tensor) -> None:
        """Check an image batch, for a message in place of PyTorch's about some convolution.

        Raises:
            TypeError: If it is no tensor of floating point numbers.
            ValueError: If its shape is not (B, in_channels, H, W), or smaller than the last stride.
        """
        if torch.jit.is_tracing():
            return
        expected = f'(batch, {self.in_channels}, height, width)'
        if not isinstance(x, Tensor):
            raise TypeError(f'Images must be one tensor of shape {expected}, got '
                            f'{type(x).__name__}.')
        shape = tuple(x.shape)
        if not x.is_floating_point():
            raise TypeError(f'Images must be normalised floating point numbers of shape {expected},'
                            f' got {x.dtype} of shape {shape}: use images.float(), and normalise '
                            'them as the weights expect it.')
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            hint = (' The config decides both: in_channels of the backbone, and color_type of '
                    'LoadImageFromFile with mean and std of the data preprocessor.')
            if x.ndim == 3:
                hint = ' A single image needs a batch in front: images[None].'
            elif x.ndim == 4 and x.shape[3] == self.in_channels:
                hint = ' Channels come before height and width: images.permute(0, 3, 1, 2).'
            raise ConfigError(f'Images must be of shape {expected}, got {shape}.{hint}')
        size = self.strides[-1]
        if min(x.shape[-2:]) < size:
            raise ConfigError(f'Images must be at least {size} x {size} pixels, because the last '
                              f'stage has stride {size}; got {tuple(x.shape[-2:])}. Resize or pad '
                              'them.')
