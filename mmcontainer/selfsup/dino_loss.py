"""The loss of DINO, with the centre of the teacher's outputs."""
import torch
from mmengine.dist import all_reduce
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import ConfigError


@MODELS.register_module()
class DINOLoss(nn.Module):
    r"""Cross-entropy between the teacher's and the student's distributions (arXiv 2104.14294).

    With teacher outputs :math:`t_i` of the global crops, student outputs :math:`s_v` of all crops,
    centre :math:`c` and temperatures :math:`\tau`,

    .. math::
        P_i = \mathrm{softmax}((t_i - c) / \tau_t), \quad
        L = \operatorname{mean}_{i, v \ne i} \; -P_i \cdot \log \mathrm{softmax}(s_v / \tau_s)

    averaged over the batch. Afterwards the centre moves towards the mean of the teacher's outputs
    over all crops, images and processes, so that a step uses the centre of the steps before it.

    Args:
        out_channels (int): Width K of the outputs.
        student_temp (float): Temperature of the student.
        teacher_temp (float): Temperature of the teacher after the warm-up.
        warmup_teacher_temp (float): Temperature of the teacher in the first epoch of the warm-up.
        warmup_epochs (int): Epochs in which the teacher's temperature changes linearly, the first
            and the last one included; 0, DINO's default, for a constant temperature.
        center_momentum (float): Share of the centre that stays in a step.

    Raises:
        ConfigError: A temperature is not positive.
    """

    center: Tensor

    def __init__(self,
                 out_channels: int,
                 student_temp: float = 0.1,
                 teacher_temp: float = 0.04,
                 warmup_teacher_temp: float = 0.04,
                 warmup_epochs: int = 0,
                 center_momentum: float = 0.9):
        super().__init__()
        for name, value in (('student_temp', student_temp), ('teacher_temp', teacher_temp),
                            ('warmup_teacher_temp', warmup_teacher_temp)):
            if not value > 0:
                raise ConfigError(f'{name} of DINOLoss is {value!r}; a number above 0 is expected.')
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.warmup_teacher_temp = warmup_teacher_temp
        self.warmup_epochs = warmup_epochs
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(1, out_channels))

    def temperature_at(self, epoch: int) -> float:
        """Temperature of the teacher in an epoch, the first of which is 0."""
        if epoch >= self.warmup_epochs - 1:
            first_of_one = self.warmup_epochs == 1 and epoch == 0
            return self.warmup_teacher_temp if first_of_one else self.teacher_temp
        step = (self.teacher_temp - self.warmup_teacher_temp) / (self.warmup_epochs - 1)
        return self.warmup_teacher_temp + epoch * step

    def forward(self, student: Tensor, teacher: Tensor, num_images: int, epoch: int = 0) -> Tensor:
        """Compute the loss, and move the centre.

        Args:
            student (Tensor): (V * B, K), crop by crop: the V crops of an image are B rows apart.
            teacher (Tensor): (I * B, K) of the first I crops, the global ones.
            num_images (int): B.
            epoch (int): Counted from 0; it chooses the teacher's temperature.

        Returns:
            Tensor: The loss, a scalar.
        """
        # Softmax and centre are as precise as the centre, also under autocast.
        student, teacher = student.to(self.center.dtype), teacher.detach().to(self.center.dtype)
        views = (student / self.student_temp).log_softmax(-1).unflatten(0, (-1, num_images))
        targets = ((teacher - self.center) / self.temperature_at(epoch)).softmax(-1)
        targets = targets.unflatten(0, (-1, num_images))
        loss = sum(-(target * views[v]).sum(-1).mean() for i, target in enumerate(targets)
                   for v in range(len(views)) if v != i)
        self._move_center(teacher)
        return loss / (len(targets) * (len(views) - 1))

    @torch.no_grad()
    def _move_center(self, teacher: Tensor) -> None:
        mean = teacher.mean(0, keepdim=True)
        all_reduce(mean, 'mean')
        self.center.lerp_(mean, 1 - self.center_momentum)
