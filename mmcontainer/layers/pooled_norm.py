"""Batch norms behind a global average: they see one value per image and channel."""
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError


def check_pooled_norm(norm: nn.Module, x: Tensor) -> None:
    """Raise a ConfigError if a norm behind a global average would train on a single value.

    Its output would be its bias whatever the image (PyTorch refuses with a message that does not
    say where to look).

    Args:
        norm (nn.Module): Norm that sees the spatial mean of ``x``.
        x (Tensor): Feature map (B, C, H, W) before the mean.
    """
    if not isinstance(norm, _BatchNorm) or not norm.training or x.shape[0] > 1:
        return
    is_synced = isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and (
        dist.is_initialized() and dist.get_world_size() > 1)
    if not is_synced:
        raise ConfigError(
            'This layer normalises the mean of each image over the batch, so it cannot train on a '
            'single image: use 2 or more images per process, SyncBN on several processes '
            "(norm_cfg=dict(type='SyncBN')), or norm_eval=True.")
