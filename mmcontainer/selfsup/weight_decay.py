"""Weight decay that changes during training."""
from mmengine.optim import CosineAnnealingParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingWeightDecay(CosineAnnealingParamScheduler):
    """Weight decay on a cosine from its value in the optimizer to ``eta_min``, which may be larger.

    Parameters without weight decay keep none.

    Args:
        optimizer: Optimizer or its wrapper.
        **kwargs: See :class:`mmengine.optim.CosineAnnealingParamScheduler`.
    """

    def __init__(self, optimizer, **kwargs):
        super().__init__(optimizer, param_name='weight_decay', **kwargs)

    def _get_value(self) -> list:
        return [value if base else 0. for value, base in zip(super()._get_value(),
                                                             self.base_values)]
