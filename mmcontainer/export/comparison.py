"""Compares the detections of an ONNX file with those that MMDetection makes in PyTorch."""
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import nn

# Largest differences that are put down to rounding: pixels, scores, probabilities of a mask.
BOX_TOLERANCE, SCORE_TOLERANCE, MASK_TOLERANCE = 0.05, 1e-4, 1e-3
#: With fewer detections nothing can be said.
MIN_DETECTIONS = 20


class Detections(NamedTuple):
    """Of one image, best first: boxes (N, 4), scores (N, ), labels (N, ), masks (N, h, w)."""
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Optional[np.ndarray] = None


@dataclass
class Comparison:
    """Result of comparing, over any number of images.

    Attributes:
        detections: How many were matched.
        unmatched: How many of either side the other one lacks.
        box, score, mask: Largest differences of those matched.
    """
    detections: int = 0
    unmatched: int = 0
    box: float = 0.
    score: float = 0.
    mask: float = 0.

    @property
    def is_equal(self) -> bool:
        """Whether all differences can be rounding."""
        return self.unmatched == 0 and self.box <= BOX_TOLERANCE and (
            self.score <= SCORE_TOLERANCE and self.mask <= MASK_TOLERANCE)

    def __str__(self) -> str:
        return (f'{self.detections} detections, {self.unmatched} without a counterpart; largest '
                f'differences: boxes {self.box:.1e} pixels, scores {self.score:.1e}, masks '
                f'{self.mask:.1e}')


@contextmanager
def _mask_logits(model: nn.Module):
    """Context that gives a list of what the mask heads return meanwhile."""
    head = getattr(getattr(model, 'roi_head', None), 'mask_head', None)
    heads = [] if head is None else list(head) if isinstance(head, nn.ModuleList) else [head]
    logits = []
    hooks = [one.register_forward_hook(lambda _, __, output: logits.append(output))
             for one in heads]
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, score_thr: float) -> list[Detections]:
    """What MMDetection finds.

    Args:
        model (nn.Module): The detector, in evaluation mode on the CPU.
        images (np.ndarray): (B, H, W, 3), uint8 in RGB; they are not resized.
        score_thr (float): Detections with at most this score are left out.

    Returns:
        list[Detections]: Of every image; masks are probabilities before they are pasted.
    """
    size = tuple(images.shape[1:3])
    samples = [DetDataSample(metainfo=dict(
        img_shape=size, ori_shape=size, scale_factor=(1., 1.))) for _ in images]
    # Loaders give MMDetection BGR.
    inputs = [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images]
    with _mask_logits(model) as logits:
        found = [sample.pred_instances
                 for sample in model.test_step(dict(inputs=inputs, data_samples=samples))]
    labels = torch.cat([instances.labels for instances in found])
    masks = [None] * len(found)
    if logits:
        mean = torch.stack([output.sigmoid() for output in logits]).mean(0)
        of_class = labels if mean.shape[1] > 1 else torch.zeros_like(labels)
        masks = mean[torch.arange(len(labels)), of_class].split([len(one) for one in found])
    results = []
    for instances, mask in zip(found, masks):
        order = instances.scores.argsort(descending=True, stable=True)
        order = order[instances.scores[order] > score_thr]
        values = [instances.bboxes, instances.scores, instances.labels, mask]
        results.append(Detections(*(None if value is None else value[order].numpy()
                                    for value in values)))
    return results


def run_file(session, images: np.ndarray) -> list[Detections]:
    """What an ONNX file finds in images (B, H, W, 3); ``session`` is onnxruntime's."""
    dets, labels, *masks = session.run(None, {'images': images})
    return [Detections(dets[i, found, :4], dets[i, found, 4], labels[i, found],
                       masks[0][i, found] if masks else None)
            for i, found in enumerate(labels >= 0)]


def compare(expected: Sequence[Detections], found: Sequence[Detections], score_thr: float,
            number: int, into: Optional[Comparison] = None) -> Comparison:
    """Match detections greedily by label and box.

    What one side has and the other lacks is no difference where rounding decides: with a score at
    the threshold, or with the lowest one of an image that has as many detections as it may have.

    Args:
        expected, found (Sequence[Detections]): Of the same images.
        score_thr (float): The threshold of both.
        number (int): The most detections of an image.
        into (Comparison, optional): Result so far.

    Returns:
        Comparison: The result so far and this one.
    """
    total = Comparison() if into is None else into
    for ours, theirs in zip(expected, found):
        free = np.ones(len(theirs.scores), bool)
        alone = []
        for i in range(len(ours.scores)):
            boxes = np.abs(theirs.boxes - ours.boxes[i]).max(axis=1, initial=0)
            scores = np.abs(theirs.scores - ours.scores[i])
            distance = boxes / BOX_TOLERANCE + scores / SCORE_TOLERANCE
            distance[~free | (theirs.labels != ours.labels[i])] = np.inf
            j = int(distance.argmin()) if len(distance) else -1
            if j < 0 or boxes[j] > BOX_TOLERANCE or not np.isfinite(distance[j]):
                alone.append(ours.scores[i])
                continue
            free[j] = False
            total.detections += 1
            total.box = max(total.box, float(boxes[j]))
            total.score = max(total.score, float(scores[j]))
            if ours.masks is not None:
                difference = np.abs(theirs.masks[j] - ours.masks[i]).max()
                total.mask = float(np.maximum(total.mask, difference))  # NaN stays
        limits = [score_thr]
        for side in (ours, theirs):
            if len(side.scores) >= number:
                limits.append(side.scores.min())
        total.unmatched += sum(min(abs(score - limit) for limit in limits) > SCORE_TOLERANCE
                               for score in [*alone, *theirs.scores[free]])
    return total
