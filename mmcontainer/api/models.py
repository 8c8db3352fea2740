"""Backbones by name: ``mmcontainer.create_model``, and the same for timm."""
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any, Optional, Union

from ..backbones import BaseBackbone, CoAtNet, Container, ContainerPAM, CoTNet
from ..checkpoints import load_backbone
from ..cli.tool import user_errors
from ..config_nodes import constructor_arguments
from ..errors import UserError, did_you_mean

# timm's names of our arguments.
_ALIASES = {'in_chans': 'in_channels'}
# The name says it; and a config of weights would be read by init_weights() alone.
_SETTLED = {'arch': 'the name of the model chooses it',
            'init_cfg': 'pretrained=FILE loads weights'}
_CLASSIFIER = ('only features_only=True is there, which returns the maps of a backbone. '
               'For a classifier build a config of configs/imagenet/ with MMPretrain, '
               "get_model(mmengine.hub.get_config('mmcontainer::imagenet/...')).")
_NO_DOWNLOAD = ('pretrained=True would have to download weights, and none of these models has an '
                'address: pretrained=FILE reads the official or a converted file '
                '(docs/official_weights.md says where it is).')


@cache
def _table() -> dict[str, tuple[type, str]]:
    """{name: (class, arch)} of every row of every backbone."""
    prefixes = {Container: 'container_', ContainerPAM: 'container_', CoTNet: '', CoAtNet: ''}
    return {prefix + arch.replace('-', '_'): (cls, arch)
            for cls, prefix in prefixes.items() for arch in cls.arch_settings}


def list_models(pattern: str = '*') -> list[str]:
    """Names that :func:`create_model` knows, sorted.

    Args:
        pattern (str): With ``*`` and ``?``, for example ``'cotnet*'``.
    """
    return sorted(name for name in _table() if fnmatch(name, pattern))


def create_model(name: str,
                 features_only: bool = True,
                 pretrained: Union[str, Path, Mapping, bool, None] = None,
                 **kwargs: Any) -> BaseBackbone:
    """Build a backbone by name.

    Args:
        name (str): One of :func:`list_models`, for example ``'container_light'``.
        features_only (bool): Must be True, as in timm: the model maps images (B, 3, H, W) to one
            map (B, C_i, H_i, W_i) per stage, ``model.strides`` being the down-sampling factors.
        pretrained (str | Path | Mapping, optional): File or state dict of weights, official or of
            this package, see :func:`mmcontainer.checkpoints.load_backbone`; random weights
            without it.
        **kwargs: Arguments of the class, for example ``out_indices``, ``drop_path_rate``,
            ``frozen_stages``, ``in_channels`` (or timm's ``in_chans``); see
            :class:`mmcontainer.backbones.BaseBackbone`.

    Returns:
        BaseBackbone: In training mode, as every new module.

    Raises:
        UserError: Unknown name or argument, a value that is refused, weights that are missing, of
            another model or unreadable, or ``features_only=False``.

    Examples:
        >>> import torch
        >>> import mmcontainer
        >>> model = mmcontainer.create_model('container_light', out_indices=(1, 3)).eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 512, 2, 3)]
    """
    if name not in _table():
        raise UserError(f'There is no model {name!r}.{did_you_mean(str(name), _table())} '
                        'mmcontainer.list_models() has all names.')
    if not features_only:
        raise UserError(f'{name}: {_CLASSIFIER}')
    if pretrained is True:
        raise UserError(f'{name}: {_NO_DOWNLOAD}')
    cls, arch = _table()[name]
    arguments = {_ALIASES.get(key, key): value for key, value in kwargs.items()}
    _check_names(name, cls, arguments)
    with user_errors():
        model = cls(arch, **arguments)
        if pretrained is not None and pretrained is not False:
            load_backbone(model, pretrained)
    return model


def _check_names(name: str, cls: type, arguments: Mapping[str, Any]) -> None:
    known = set(constructor_arguments(cls)[0])
    for key in arguments:
        if key in _SETTLED:
            raise UserError(f'{name} takes no {key}: {_SETTLED[key]}.')
        if key not in known:
            raise UserError(f'{name} takes no {key!r}.'
                            f'{did_you_mean(key, known - _SETTLED.keys())}')


# ---------------------------------------------------------------- timm

def register_with_timm() -> None:
    """Make every name of :func:`list_models` one of ``timm.create_model``, too.

    It happens by itself as soon as both libraries are imported. ``pretrained=True`` reads the file
    that ``pretrained_cfg_overlay=dict(file=...)`` names.

    Raises:
        ImportError: timm is not installed.
    """
    from timm.models import is_model, register_model
    for name in list_models():
        if is_model(name):  # timm's own is not replaced; so far it has none of these names
            continue
        function = partial(_create_for_timm, name)
        # timm reads them where a function would have them.
        function.__name__, function.__module__ = name, __name__
        register_model(function)


def _create_for_timm(name: str, pretrained: bool = False, pretrained_cfg: Any = None,
                     pretrained_cfg_overlay: Optional[Mapping] = None, features_only: bool = False,
                     out_indices=None, **kwargs: Any) -> BaseBackbone:
    """An entry point of timm's registry; the model has timm's ``feature_info``."""
    from timm.models import FeatureInfo
    weights = None
    if pretrained:
        given = {**(pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}),
                 **(pretrained_cfg_overlay or {})}
        weights = given.get('state_dict') or given.get('file')
        if not weights:
            raise UserError(
                f'{name} has no weights to download: name the official or a converted file, '
                'pretrained=True, pretrained_cfg_overlay=dict(file=FILE).')
    # Of no concern to maps; timm drops these as well.
    for key in ('num_classes', 'global_pool', 'cache_dir'):
        kwargs.pop(key, None)
    if out_indices is not None:  # -1 is the last stage there
        number = len(_table()[name][0].arch_settings[_table()[name][1]]['depths'])
        if isinstance(out_indices, int):  # so many of the last ones
            out_indices = range(number)[-out_indices:]
        out_indices = [index + number if index < 0 else index for index in out_indices]
    model = create_model(name, features_only, weights, out_indices=out_indices, **kwargs)
    names = {module: key for key, module in model.named_modules()}
    stages = [dict(num_chs=channels, reduction=stride, module=names[model.stage(index)])
              for index, (channels, stride) in enumerate(zip(model.arch['embed_dims'],
                                                             model.strides))]
    model.feature_info = FeatureInfo(stages, model.out_indices)
    return model
