"""Several processes, on CPUs too, and checks of the launchers' environments."""
import os
from pathlib import Path
from typing import Optional

import torch
from mmengine.dist import all_gather_object
from torch import distributed

from ..config_nodes import iter_dicts
from ..engine.buffers import AverageBuffersHook
from ..errors import UserError
from ..type_names import type_name
from .config_changes import add_hook, remove_hook

_SYNCED = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
_TORCHRUN = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


def launched_rank(launcher: str) -> int:
    """Number of this process in all that a launcher started, before they form a group."""
    variable = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return int(os.environ.get(variable.get(launcher, ''), 0))


def setup_distributed(cfg, launcher: str) -> None:
    """Check a launcher's environment, and start the process group where there is no GPU.

    MMEngine starts process groups on GPUs only. On the CPU this starts one with the gloo backend,
    and wraps the model without ``device_ids``. Statistics of norms that are not frozen differ from
    process to process, since MMEngine does not broadcast buffers: :class:`AverageBuffersHook`
    averages them, so that what is evaluated and saved does not depend on the process.

    Args:
        cfg (Config): ``launcher``, ``custom_hooks`` and on the CPU ``model_wrapper_cfg`` are set in
            place.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        UserError: If the environment is not that of the launcher, or there are too few GPUs.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    if launcher == 'pytorch':
        missing = [name for name in _TORCHRUN if name not in os.environ]
        if missing:
            raise UserError(f'--launcher pytorch: {", ".join(missing)} not set, so this process '
                            'was not started by torchrun. Use tools/dist_train.sh or '
                            'tools/dist_test.sh.')
    remove_hook(cfg, 'SyncBuffersHook')  # of which it is one
    add_hook(cfg, AverageBuffersHook.__name__)
    if torch.cuda.is_available():
        gpus, rank = torch.cuda.device_count(), int(os.environ.get('LOCAL_RANK', 0))
        if rank >= gpus:
            raise UserError(f'This machine has {gpus} GPUs, but more processes were started on it: '
                            f'start {gpus} (the second argument of tools/dist_*.sh).')
        return
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs GPUs; on the CPU use tools/dist_train.sh.')
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper


def check_same_checkpoint(cfg) -> None:
    """Check that all processes go on from one checkpoint, or all from none.

    Args:
        cfg (Config): Of a runner that has been built, and with it the group of processes.

    Raises:
        UserError: Machines without a common disk: only the first process writes checkpoints. The
            others would train other weights, whose gradients are averaged with its own.
    """
    file = Path(cfg.load_from) if cfg.get('load_from') else None
    found = all_gather_object('no checkpoint' if file is None else
                              f'{file.name} ({file.stat().st_size} bytes)')
    other = next((rank for rank, one in enumerate(found) if one != found[0]), None)
    if other is not None:
        raise UserError(
            f'Process 0 starts from {found[0]}, process {other} from {found[other]}: all machines '
            'have to see the same work dir and checkpoints. Use a disk that they share.')


def replace_sync_bn(cfg) -> Optional[str]:
    """Turn synchronised batch norms into plain ones where nothing can synchronise them.

    PyTorch's need a GPU per process. In one process they compute what plain ones do, and MMEngine
    replaces them itself; on the CPU with several processes they raise an error. Names and shapes of
    weights are the same.

    Args:
        cfg (Config): ``launcher`` as :func:`setup_distributed` set it; ``model`` is changed in
            place.

    Returns:
        str | None: What that means for training, for the user to read; None if nothing changed.
    """
    if cfg.launcher != 'none' and torch.cuda.is_available():
        return None
    changed = [node.update(type='BN') for _, node in iter_dicts(cfg.model, 'model')
               if type_name(node.get('type')) in _SYNCED]
    if not changed:
        return None
    images = (cfg.get('train_dataloader') or {}).get('batch_size', 'few')
    recipe = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', 'many')
    return ('Warning: SyncBN becomes BN, because it needs several processes with a GPU each. In '
            f'training, norms see the {images} images of one process, not {recipe} as in the '
            'recipe.')
