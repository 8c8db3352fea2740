"""Statistics that differ between processes, averaged before they are used."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import SyncBuffersHook
from mmengine.registry import HOOKS

from .checkpoint_hook import is_checkpoint_due


@HOOKS.register_module()
class AverageBuffersHook(SyncBuffersHook):
    """:class:`mmengine.hooks.SyncBuffersHook`, before checkpoints by iteration, too.

    MMEngine averages buffers after an epoch and before a validation, which follows the checkpoint
    of the same iteration: that held the statistics of the first process alone.
    """

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """All-reduce the buffers if a checkpoint is due."""
        if self.distributed and is_checkpoint_due(runner, by_epoch=False):
            all_reduce_params(runner.model.buffers(), op='mean')
