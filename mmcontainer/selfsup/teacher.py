"""The teacher: a moving average of the student's parameters, with statistics of its own."""
import torch
from mmpretrain.models.utils import CosineEMA
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class TeacherEMA(CosineEMA):
    """Average of parameters whose momentum rises on a cosine over the whole training.

    Unlike MMEngine's averaged models it does not start over with a copy in the first step, and
    leaves its buffers alone: the statistics of the teacher's batch norms come from its own forward,
    of global crops only. Those of the student are for the most part of local crops.

    Args:
        model (nn.Module): The teacher; it is copied.
        momentum (float): Share of the teacher that stays in the first step.
        end_momentum (float): What that share rises to.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.996, end_momentum: float = 1.):
        # MMEngine calls the share that is new 'momentum'.
        super().__init__(model, momentum=1 - momentum, end_momentum=1 - end_momentum)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move every parameter towards the one of the same name in a model.

        Args:
            model (nn.Module): It may have more parameters than the teacher.
        """
        student, steps = dict(model.named_parameters()), int(self.steps)
        for name, parameter in self.module.named_parameters():
            # A number: MMPretrain multiplies it by pi, which of a tensor is float32.
            self.avg_func(parameter, student[name], steps)
        self.steps += 1
