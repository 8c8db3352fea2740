"""DINO: self-distillation without labels (arXiv 2104.14294)."""
from collections.abc import Sequence
from itertools import groupby
from typing import Optional, Union

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import ConfigError
from .teacher import TeacherEMA

_GLOBAL_CROPS = 2


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Embeddings (B, C) of images (B, 3, H, W): the last output of backbone and neck.

    Args:
        network (nn.Module): With ``backbone``, ``neck``, which may be None, and ``head``.
        images (Tensor): Normalised images of one size.

    Raises:
        ConfigError: These are no vectors of the width that the head expects.
    """
    outputs = network.backbone(images)
    if network.neck is not None:
        outputs = network.neck(outputs)
    vectors = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
    expected = (len(images), network.head.in_channels)
    if tuple(vectors.shape) != expected:
        raise ConfigError(
            f'DINO needs one vector per image out of {type(network.backbone).__name__}: '
            f'{expected} by head.in_channels, found {tuple(vectors.shape)}. Correct in_channels; '
            "maps need neck=dict(type='GlobalAveragePooling').")
    return vectors


def project(network: nn.Module, crops: Sequence[Tensor]) -> Tensor:
    """Outputs of the head for crops of several sizes.

    Consecutive crops of equal width go through the backbone in one call, so that its batch norms
    take their statistics over all of them, and the head runs once.

    Args:
        network (nn.Module): See :func:`embed`.
        crops (Sequence[Tensor]): V tensors (B, 3, H, W), the same images in each.

    Returns:
        Tensor: (V * B, K), crop by crop.
    """
    batches = [torch.cat(list(group)) for _, group in groupby(crops, lambda crop: crop.shape[-1])]
    return network.head(torch.cat([embed(network, batch) for batch in batches]))


class _Network(nn.Module):
    """Backbone, neck and head, named as in the student."""

    def __init__(self, backbone: nn.Module, neck: Optional[nn.Module], head: nn.Module):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        return project(self, crops)


@MODELS.register_module()
class DINO(BaseSelfSupervisor):
    """A student that learns what its teacher, an average of former students, says of other crops.

    The student is ``backbone``, ``neck`` and ``head``; the teacher is the same without drop path.
    Both are in training mode in training: the teacher's batch norms have statistics of their own,
    of the global crops. Predictions are embeddings of the teacher.

    The training needs :class:`DINOHook`, which moves the teacher after every step.

    Args:
        backbone (dict): Its last output is used. If it has a ``drop_path_rate``, that is the
            student's.
        head (dict): See :class:`DINOHead`.
        neck (dict, optional): For a backbone whose output is a map, ``GlobalAveragePooling``.
        loss (dict, optional): Arguments of :class:`DINOLoss`, whose width is that of the head.
        teacher_momentum (float): Share of the teacher that stays in the first step; it rises to 1.
        data_preprocessor (dict, optional): See :class:`mmpretrain.models.SelfSupDataPreprocessor`.
        init_cfg (dict, optional): See :class:`mmengine.model.BaseModule`.

    Raises:
        ConfigError: Backbone, neck and head do not go together, there are fewer than two crops, or
            DINOHook is missing.
    """

    def __init__(self,
                 backbone: dict,
                 head: dict,
                 neck: Optional[dict] = None,
                 loss: Optional[dict] = None,
                 teacher_momentum: float = 0.996,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[Union[list, dict]] = None):
        super().__init__(backbone=backbone, neck=neck, head=head,
                         data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.dino_loss = MODELS.build(
            {'type': 'DINOLoss', 'out_channels': self.head.out_channels, **(loss or {})})
        teacher = _Network(
            MODELS.build({**backbone, **({'drop_path_rate': 0.} if 'drop_path_rate' in backbone
                                         else {})}),
            None if neck is None else MODELS.build(neck), MODELS.build(head))
        self.teacher = TeacherEMA(teacher, momentum=teacher_momentum)
        # Set by DINOHook, without which nothing would move the teacher.
        self.epoch: Optional[int] = None
        self._copy_to_teacher()

    def _copy_to_teacher(self) -> None:
        student = self.state_dict()
        self.teacher.module.load_state_dict(
            {key: student[key] for key in self.teacher.module.state_dict()})

    def init_weights(self) -> None:
        """Initialise the student, and start the teacher as its copy."""
        if not self.is_init:  # a second call must not undo a training
            super().init_weights()
            self._copy_to_teacher()

    def forward(self, inputs: Union[Tensor, list[Tensor]],
                data_samples: Optional[list[DataSample]] = None, mode: str = 'tensor'):
        """Compute the loss ('loss'), embeddings ('predict') or the student's maps ('tensor')."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    def loss(self, inputs: list[Tensor],
             data_samples: Optional[list[DataSample]] = None) -> dict[str, Tensor]:
        """Compute the loss of a batch, and move the centre.

        Args:
            inputs (list[Tensor]): Crops (B, 3, H, W) of the same images, the two global ones first.
            data_samples (list[DataSample], optional): Not used.

        Returns:
            dict[str, Tensor]: 'loss', a scalar.
        """
        if self.epoch is None:
            raise ConfigError("Training DINO needs custom_hooks = [dict(type='DINOHook')], which "
                              'moves the teacher after every step.')
        if not isinstance(inputs, (list, tuple)) or len(inputs) < _GLOBAL_CROPS:
            found = len(inputs) if isinstance(inputs, (list, tuple)) else 1
            raise ConfigError(f'DINO needs {_GLOBAL_CROPS} global crops of every image, and local '
                              f'ones after them; found {found}. MultiView in the pipeline makes '
                              'them.')
        student = project(self, inputs)
        with torch.no_grad():
            teacher = self.teacher(inputs[:_GLOBAL_CROPS])
        return dict(loss=self.dino_loss(student, teacher, len(inputs[0]), self.epoch))

    def predict(self, inputs: Tensor, data_samples: list[DataSample]) -> list[DataSample]:
        """Set ``feature``, the embedding (C, ) by the teacher, in every data sample.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            data_samples (list[DataSample]): B of them.
        """
        for sample, vector in zip(data_samples, embed(self.teacher.module, inputs)):
            sample.set_field(vector, 'feature')
        return data_samples
