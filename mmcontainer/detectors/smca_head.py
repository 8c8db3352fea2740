"""Head of SMCA-DETR: boxes around the reference points of their queries."""
import torch
from mmdet.models.dense_heads import ConditionalDETRHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor


@MODELS.register_module()
class SMCAHead(ConditionalDETRHead):
    """Conditional DETR's head with reference points given before the sigmoid.

    Losses are divided by the number of all objects of the batch, as in the official code: objects
    beyond the number of queries, which none is matched with, count too.

    Scores and boxes come in float32, whatever the precision of the model: so do then the costs of
    the matching and the losses.

    Args:
        args, kwargs: Arguments of MMDetection's ``DETRHead``.

    Raises:
        ValueError: If the classification loss has no sigmoid: the model's one bias for all classes
            and its inference over all pairs of query and class belong to focal loss.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.loss_cls.use_sigmoid:
            raise ValueError("SMCAHead needs loss_cls=dict(type='FocalLoss', use_sigmoid=True, "
                             f'...), got {type(self.loss_cls).__name__} without sigmoid.')

    def forward(self, hidden_states: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Classify and locate.

        Args:
            hidden_states (Tensor): (layers, B, L, C).
            references (Tensor): Reference points (B, L, 2), (x, y) before the sigmoid.

        Returns:
            tuple[Tensor, Tensor]: Logits (layers, B, L, classes) and boxes (layers, B, L, 4) as
            (cx, cy, w, h), relative to the image without padding.
        """
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        logits = self.fc_cls(hidden_states).to(dtype)
        boxes = self.fc_reg(self.activate(self.reg_ffn(hidden_states))).to(dtype)
        centres = boxes[..., :2] + references.to(dtype)
        return logits, torch.cat((centres, boxes[..., 2:]), dim=-1).sigmoid()

    def get_targets(self, cls_scores_list: list[Tensor], bbox_preds_list: list[Tensor],
                    batch_gt_instances: InstanceList, batch_img_metas: list[dict]) -> tuple:
        """Targets of a decoder layer, see ``DETRHead``, and what its losses are divided by.

        Args:
            cls_scores_list (list[Tensor]): Logits (L, classes) of every image.
            bbox_preds_list (list[Tensor]): Boxes (L, 4) of every image, see :meth:`forward`.
            batch_gt_instances (list[InstanceData]): Objects of every image.
            batch_img_metas (list[dict]): Sizes of the images.

        Returns:
            tuple: As of ``DETRHead``, with the number of objects in place of the matched ones.
        """
        *targets, _, num_unmatched = super().get_targets(
            cls_scores_list, bbox_preds_list, batch_gt_instances, batch_img_metas)
        num_objects = sum(len(objects.bboxes) for objects in batch_gt_instances)
        return (*targets, num_objects, num_unmatched)
