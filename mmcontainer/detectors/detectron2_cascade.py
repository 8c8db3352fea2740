"""The RoI head of Cascade R-CNN as detectron2 trains and tests it.

Source: ``modeling/roi_heads/cascade_rcnn.py`` of github.com/facebookresearch/detectron2, v0.3, with
which CoTNet's official cascades were trained.
"""
from collections.abc import Sequence
from typing import Union

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.task_modules import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class Detectron2CascadeRoIHead(CascadeRoIHead):
    """MMDetection's ``CascadeRoIHead`` with detectron2's training and test scores.

    ::

        proposals -> match, sample -> boxes of stage 0 -> pool -> box head 0 -> decode -> clip
                                            |                                               |
                                            +-> positives -> pool -> mask head      drop empty boxes
                                                                                            |
                         ... <- box head 1 <- pool <- boxes of stage 1 <- match all <-------+

    What MMDetection does differently:

    - the gradient of a stage's pooled box features is divided by the number of stages, that of the
      mask head's is not (MMDetection gives the stages different loss weights);
    - ground truth that the first stage's sampler appended stays in the later stages;
    - one mask head serves all stages: it learns from the first stage's positives (MMDetection has
      one per stage, and averages their masks), and its loss is named ``loss_mask``;
    - the test score of a box is the mean of the stages' probabilities, not of their logits.

    That later stages keep all boxes is up to ``train_cfg``: their sampler is a ``PseudoSampler``
    (``configs/_base_/cotnet_cascade.py``).

    Args:
        args, kwargs: Arguments of MMDetection's ``CascadeRoIHead``. ``mask_head`` and
            ``mask_roi_extractor`` are those of one head.

    Raises:
        ValueError: If a box head regresses per class, which detectron2's cascade does not know, or
            if ``mask_head`` is a list, or has no extractor of its own.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not all(head.reg_class_agnostic for head in self.bbox_head):
            raise ValueError('Detectron2CascadeRoIHead needs reg_class_agnostic=True in every '
                             'bbox_head: detectron2 refines one box for all classes.')

    # One mask head, as Mask R-CNN has it.
    _mask_forward = StandardRoIHead._mask_forward
    predict_mask = StandardRoIHead.predict_mask

    def init_mask_head(self, mask_roi_extractor: dict, mask_head: dict) -> None:
        """Build the mask head and its extractor."""
        for name, value in (('mask_roi_extractor', mask_roi_extractor), ('mask_head', mask_head)):
            if not isinstance(value, dict):
                raise ValueError(f'Detectron2CascadeRoIHead has one mask head for all stages, so '
                                 f'{name} must be one dict, got {value!r}.')
        StandardRoIHead.init_mask_head(self, mask_roi_extractor, mask_head)

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: list[InstanceData],
             batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return the losses of all stages.

        Args:
            x (tuple[Tensor]): Maps of the neck, each (B, C, H_i, W_i).
            rpn_results_list (list[InstanceData]): ``bboxes`` (N_b, 4) of each image.
            batch_data_samples (list[DetDataSample]): Ground truth of each image.

        Returns:
            dict[str, Tensor]: ``s0.loss_cls``, ``s0.loss_bbox``, ``s0.acc``, ``s1...`` and, with a
            mask head, ``loss_mask``.
        """
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = {}
        boxes = [proposals.bboxes for proposals in rpn_results_list]
        for stage in range(self.num_stages):
            sampled = self._match(stage, boxes, instances, ignored)
            results = self.bbox_loss(stage, x, sampled)
            if not results['cls_score'].numel():
                # MMDetection leaves the loss out, and distributed training waits for the gradients.
                results['loss_bbox']['loss_cls'] = results['cls_score'].sum()
            weight = self.stage_loss_weights[stage]
            for name, value in results['loss_bbox'].items():
                losses[f's{stage}.{name}'] = value * weight if 'loss' in name else value
            if stage == 0 and self.with_mask:
                losses.update(self._mask_loss(x, sampled, instances))
            boxes = self._refine_boxes(stage, sampled, results['bbox_pred'], metas)
        return losses

    def _match(self, stage: int, boxes: list[Tensor], instances: list[InstanceData],
               ignored: list[Union[InstanceData, None]]) -> list[SamplingResult]:
        """Match the boxes (N_b, 4) of each image with its objects, and sample from them."""
        sampled = []
        for priors, objects, crowd in zip(boxes, instances, ignored):
            priors = InstanceData(priors=priors)
            assigned = self.bbox_assigner[stage].assign(priors, objects, crowd)
            sampled.append(self.bbox_sampler[stage].sample(assigned, priors, objects))
        return sampled

    @torch.no_grad()
    def _refine_boxes(self, stage: int, sampled: list[SamplingResult], deltas: Tensor,
                      metas: list[dict]) -> list[Tensor]:
        """Decode the deltas (sum of N_b, 4) of a stage to boxes (<= N_b, 4) of each image."""
        refined = []
        for result, delta, meta in zip(
                sampled, deltas.split([len(result.priors) for result in sampled]), metas):
            boxes = get_box_tensor(
                self.bbox_head[stage].regress_by_class(result.priors, None, delta, meta))
            refined.append(boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)])
        return refined

    def _mask_loss(self, x: tuple[Tensor, ...], sampled: list[SamplingResult],
                   instances: list[InstanceData]) -> dict[str, Tensor]:
        """Return the loss of the mask head on the positive boxes of the first stage."""
        rois = bbox2roi([result.pos_priors for result in sampled])
        return self.mask_head.loss_and_target(
            self._mask_forward(x, rois)['mask_preds'], sampled, instances,
            self.train_cfg[0])['loss_mask']

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor,
                      probabilities: bool = False) -> dict[str, Tensor]:
        """Run the box head of a stage.

        Args:
            stage (int): Number of the stage, from 0.
            x (tuple[Tensor]): Maps of the neck, each (B, C, H_i, W_i).
            rois (Tensor): (N, 5): image, x1, y1, x2, y2.
            probabilities (bool): Return probabilities in place of logits. Defaults to False.

        Returns:
            dict[str, Tensor]: ``cls_score`` (N, classes + 1), ``bbox_pred`` (N, 4) and
            ``bbox_feats`` (N, C, h, w).
        """
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[:extractor.num_inputs], rois)
        # Every head learns from its whole loss, the maps from the mean of the stages.
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient * (1 / self.num_stages))
        logits, deltas = self.bbox_head[stage](features)
        return dict(cls_score=logits.softmax(-1) if probabilities else logits,
                    bbox_pred=deltas, bbox_feats=features)

    def _refine_roi(self, x: tuple[Tensor, ...], rois: Tensor, batch_img_metas: list[dict],
                    num_proposals_per_img: Sequence[int], **kwargs) -> tuple:
        """Run all stages; see MMDetection's method.

        The scores are logarithms of the mean probabilities: MMDetection's box head applies a
        softmax, which makes the mean probabilities of them again.
        """
        rois, means, deltas = super()._refine_roi(
            x, rois, batch_img_metas, num_proposals_per_img, probabilities=True, **kwargs)
        return rois, [mean.log() for mean in means], deltas

    def forward(self, x: tuple[Tensor, ...], rpn_results_list: list[InstanceData],
                batch_data_samples: list[DetDataSample]) -> tuple:
        """Return raw predictions, without post-processing.

        Returns:
            tuple: Of each image the scores (N_b, classes + 1), the deltas (N_b, 4) of the last
            stage and, with a mask head, the logits (N_b, classes, h, w) of the last stage's boxes.
        """
        proposals = [results.bboxes for results in rpn_results_list]
        sizes = tuple(len(boxes) for boxes in proposals)
        rois, scores, deltas = self._refine_roi(
            x, bbox2roi(proposals), [sample.metainfo for sample in batch_data_samples], sizes)
        if not self.with_mask:
            return scores, deltas
        return scores, deltas, self._mask_forward(x, torch.cat(rois))['mask_preds'].split(sizes)
