"""What tools check and change in a model that is built: channels, ``--amp``, ``--compile``."""
import os
import shutil
from collections.abc import Iterator
from typing import Optional

import torch
from mmengine.logging import print_log
from torch import nn

from ..backbones import BaseBackbone
from ..backbones.arch import of_stage
from ..engine.amp import use_bfloat16
from ..engine.deploy import unwrap
from ..errors import UserError
from ..torch_compat import require


def _takers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What takes the maps of the backbone, and is built for a number of channels of each."""
    if getattr(model, 'neck', None) is not None:
        yield 'neck', model.neck
        return
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        heads = head if isinstance(head, nn.ModuleList) else [head]
        yield from ((name, one) for one in heads if one is not None)


def check_channels(model: nn.Module) -> None:
    """Check that neck, or without one the segmentation heads, take the maps of the backbone.

    Libraries notice it in the first iteration, and name no key of the config.

    Args:
        model (nn.Module): A model, or a wrapper around one. It passes if its backbone is none of
            this package, or what takes the maps does not say what it expects.

    Raises:
        UserError: Another number of maps, or of channels, is expected.
    """
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, BaseBackbone):
        return
    given = [of_stage(backbone.arch['embed_dims'], index) for index in backbone.out_indices]
    for name, module in _takers(model):
        # 'resize_concat' of MMSegmentation's heads keeps a sum.
        expected = getattr(module, 'in_channels', None)
        chosen = getattr(module, 'in_index', range(len(given)))
        if not isinstance(expected, (list, tuple)):
            if not isinstance(chosen, int) or not isinstance(expected, int):
                continue
            expected, chosen = [expected], [chosen]
        if [given[index] if -len(given) <= index < len(given) else None
                for index in chosen] != list(expected):
            which = '' if name == 'neck' else f' for the maps in_index={list(chosen)}'
            raise UserError(
                f'model.{name}.in_channels is {list(expected)}{which}, but the backbone returns '
                f'{len(given)} maps of {given} channels (out_indices={backbone.out_indices}). '
                f'Correct in_channels of the {name}, or out_indices of the backbone.')


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone's forward with ``torch.compile``, in place.

    Only the backbone: it is most of the work, while heads and losses, whose shapes depend on the
    data, break the graph at every step. Names of weights stay as they are.

    Args:
        model (nn.Module): Detector or classifier, or a wrapper around one.

    Raises:
        UserError: If PyTorch is too old, the model has no backbone, or there is no compiler for
            the CPU.
    """
    # With hooks like PreciseBNHook, 2.5 could not leave the compiled code aside for a while.
    require('--compile', '2.6.0')
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise UserError(f'--compile compiles the backbone, and {type(model).__name__} has none.')
    compiler = os.environ.get('CXX', 'g++')
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(f'--compile needs a C++ compiler, and {compiler} was not found: install '
                        'g++, or run without --compile.')
    # Image sizes differ from batch to batch: without dynamic shapes it would compile three times.
    backbone.compile(dynamic=True)
    print_log('The backbone is compiled: the first iterations, and the first with images of other '
              'sizes, take minutes on a CPU.', logger='current')


def prepare_for_inference(model: nn.Module, amp: Optional[str], compiled: bool) -> None:
    """Apply ``--amp`` and ``--compile``, in place."""
    if amp is not None:
        use_bfloat16(unwrap(model))
    if compiled:
        compile_backbone(model)
