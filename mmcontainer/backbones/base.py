"""The common part of all backbones: arguments, outputs, freezing, weights, deployment."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModule, initialize, update_init_info
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers import MapNorm
from ..layers.deployed import deploy
from ..layers.memory_format import as_output
from ..type_names import type_name
from .arch import of_stage, resolve_arch
from .arguments import check_drop_path_rate, check_in_channels, check_norm_cfg


class BaseBackbone(BaseModule):
    """Backbone in stages, with a map out of each.

    ::

        image -> forward_stem -> stage 0 -> stage 1 -> ... -> the last stage -> norm, if any
                                    |          |                                  |
                                  out_indices choose what is returned ------------+
                                  (through out_norms, if any)

    A subclass has ``arch_settings`` and ``default_arch``; its constructor calls this one, builds
    its stem and its ``stages`` from ``self.arch``, and calls ``finish()``.

    Args:
        arch (str | dict, optional): Name of a row of ``arch_settings``, or a dict with the same
            keys; ``default_arch`` without it.
        in_channels (int): Channels of the input image.
        out_indices (Sequence[int], optional): Stages whose output is returned, 0-based, in
            ascending order; all without it.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k > 0 the stem and the first k stages:
            no gradients, and norms keep their statistics.
        drop_path_rate (float): Drop-path rate of the last block, 0 <= rate < 1; it grows linearly
            from 0 in the first one.
        norm_cfg (dict): Config of the batch norms. With ``requires_grad=False`` norms are frozen
            entirely: affine parameters and, unlike in MMDetection's ResNet, running statistics.
            Layer and group norms, which have none, stay as they are.
        norm_eval (bool): Keep all batch norms in evaluation mode (fixed statistics) in training.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
        final_norm (bool): Apply the classifier's last norm to the output of the last stage.
        out_norm (bool): Apply a layer norm over channels to every map that is returned, and not to
            what the next stage sees: as UniFormer does (arXiv 2201.09450) and, for example, Swin
            Transformer. Weights of a classifier have no such norms; they start as 1 and 0.
        init_cfg (dict | list[dict], optional): Initialisation config. A ``StrictPretrained`` entry
            is applied after everything else.

    Raises:
        ValueError: If an argument is of the wrong type or out of range; in ``forward``, if images
            are smaller than the last stride.
    """

    arch_settings: Mapping[str, Mapping[str, Any]] = {}
    # Entries that a row may leave out.
    arch_defaults: Mapping[str, Any] = {}
    default_arch = ''
    # Rows that have become classes, by name.
    moved_archs: Mapping[str, str] = {}

    def __init__(self,
                 arch: Union[str, Mapping, None] = None,
                 in_channels: int = 3,
                 out_indices: Optional[Sequence[int]] = None,
                 frozen_stages: int = -1,
                 drop_path_rate: float = 0.,
                 norm_cfg: dict = dict(type='BN'),  # noqa: B006
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 final_norm: bool = False,
                 out_norm: bool = False,
                 init_cfg=None):
        super().__init__(init_cfg)
        if isinstance(arch, str) and arch in self.moved_archs:
            raise ValueError(f'arch {arch!r} is a backbone of its own: write '
                             f'type={self.moved_archs[arch]!r} without an arch.')
        self.arch = resolve_arch(self.default_arch if arch is None else arch, self.arch_settings,
                                 type(self).__name__, self.arch_defaults)
        self.strides = self.strides_of(self.arch)
        num_stages = len(self.strides)
        if len(self.arch['depths']) != num_stages:
            raise ValueError(f'An arch of {type(self).__name__} has {num_stages} stages, got '
                             f'{len(self.arch["depths"])}.')
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
        self.out_indices: tuple[int, ...] = tuple(indices)
        self.frozen_stages = frozen_stages
        self.drop_path_rate = drop_path_rate
        self.norm_cfg = norm_cfg
        self.norm_eval = norm_eval or not norm_cfg.get('requires_grad', True)
        self.with_cp = with_cp
        if final_norm and out_norm:
            raise ValueError('final_norm and out_norm would both norm the last map: use one.')
        self.final_norm = final_norm
        self.norm: Optional[nn.Module] = None
        self.out_norm = out_norm
        self.out_norms: Optional[nn.ModuleDict] = None

    def finish(self) -> None:
        """Build the last norms, and freeze what is frozen: the end of every constructor."""
        if self.final_norm:
            self.norm = self.build_final_norm()
        if self.out_norm:
            self.out_norms = self.build_out_norms()
        self.freeze()

    def strides_of(self, arch: Mapping[str, Any]) -> tuple[int, ...]:
        """Down-sampling factor of every stage's output."""
        return (4, 8, 16, 32)

    def build_final_norm(self) -> nn.Module:
        """Build the norm that ``final_norm`` asks for."""
        raise NotImplementedError

    def build_out_norms(self) -> nn.ModuleDict:
        """Build the norms that ``out_norm`` asks for, by the index of the stage."""
        dims = self.arch['embed_dims']
        return nn.ModuleDict({str(index): MapNorm(of_stage(dims, index), eps=1e-6)
                              for index in self.out_indices})

    def drop_path_rates(self) -> list[list[float]]:
        """Drop-path rates of the blocks of every stage."""
        depths = self.arch['depths']
        step = self.drop_path_rate / max(sum(depths) - 1, 1)
        return [[step * (sum(depths[:stage]) + block) for block in range(depth)]
                for stage, depth in enumerate(depths)]

    def stage(self, index: int) -> nn.Module:
        """The module that maps the output of stage ``index - 1``, or of the stem, to the next."""
        return self.stages[index]

    def stem_modules(self) -> list[nn.Module]:
        """Modules that ``frozen_stages >= 0`` freezes."""
        raise NotImplementedError

    def forward_stem(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to the input of the first stage."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images to feature maps.

        Args:
            x (Tensor): Images (B, in_channels, H, W).

        Returns:
            tuple[Tensor, ...]: Of each stage in ``out_indices`` (B, C_i, H / s_i, W / s_i), rounded
            as the class says, contiguous.
        """
        self.check_input(x)
        x = self.forward_stem(x)
        outs = []
        for index in range(self.out_indices[-1] + 1):
            x = self.stage(index)(x)
            if index == len(self.strides) - 1 and self.norm is not None:
                x = self.norm(x)
            if index in self.out_indices:
                out = x if self.out_norms is None else self.out_norms[str(index)](x)
                outs.append(as_output(out))
        return tuple(outs)

    def freeze(self) -> None:
        """Freeze the stem and the first ``frozen_stages`` stages, and what computes nothing."""
        # Distributed training waits for the gradients of all parameters that want one.
        unused = [self.stage(stage) for stage in range(self.out_indices[-1] + 1, len(self.strides))]
        for module in [*unused, self.norm] if unused and self.norm is not None else unused:
            module.requires_grad_(False)
        if self.frozen_stages < 0:
            return
        modules = self.stem_modules()
        for stage in range(self.frozen_stages):
            modules = [*modules, self.stage(stage)]
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

    @torch.inference_mode(False)
    def switch_to_deploy(self) -> 'BaseBackbone':
        """Replace layers in place by what is fast at inference; return the model, evaluating.

        Norms and identities are folded into convolutions, and on a CPU maps are overwritten, in
        chunks and with fused operators (:mod:`mmcontainer.layers.deployed`): outputs stay equal up
        to rounding, running statistics are gone. A deployed model can neither be trained on nor
        load ordinary weights. A layer with hooks on what would be folded stays as it is.
        """
        self.eval()
        self.fold_stem()
        deploy(self)
        return self.eval()  # what took the place of a norm is in training mode when it is made

    def fold_stem(self) -> None:
        """Fold norms that are part of no layer, in place; a second call changes nothing."""

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
