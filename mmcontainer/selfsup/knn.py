"""Accuracy of a weighted k-nearest-neighbour classifier on embeddings."""
from collections.abc import Sequence
from typing import Union

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.evaluation import Accuracy
from mmpretrain.registry import METRICS
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError

_ROWS = 512  # queries whose similarities to all references are held at once


def knn_scores(queries: Tensor, references: Tensor, labels: Tensor, num_classes: int, k: int,
               temperature: float = 0.07) -> Tensor:
    """Votes of the k most similar references.

    A class has the sum of exp(cosine / temperature) over its references among the k.

    Args:
        queries (Tensor): (Q, C) embeddings of any length.
        references (Tensor): (R, C) embeddings of any length.
        labels (Tensor): (R, ) classes of the references.
        num_classes (int): Number of classes N.
        k (int): Neighbours, at most R.
        temperature (float): See above.

    Returns:
        Tensor: (Q, N) votes.
    """
    found = []
    references = F.normalize(references, dim=1).T
    for rows in F.normalize(queries, dim=1).split(_ROWS):
        similarity, index = (rows @ references).topk(k)
        votes = similarity.new_zeros(len(rows), num_classes)
        found.append(votes.scatter_add_(1, labels[index], (similarity / temperature).exp()))
    return torch.cat(found)


@METRICS.register_module()
class KNNAccuracy(BaseMetric):
    """Share of images, in percent, whose nearest references are of their class (DINO's k-NN).

    The data set of the evaluation joins the references, whose pipeline has ``MarkReference``, and
    the images that are classified. Metrics are 'knn/top1' and 'knn/top5' of the first ``k``, and
    'knn/top1_k20' for example of the others; top-5 where there are more than five classes.
    A class without votes has 0, so top-5 is arbitrary where fewer than five classes have some.

    Args:
        k (int | Sequence[int]): Neighbours; the paper's table is for 10.
        temperature (float): See :func:`knn_scores`.
        **kwargs: See :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ConfigError: No references, nothing to classify, or ``k`` is no number of references.
    """

    default_prefix = 'knn'

    def __init__(self, k: Union[int, Sequence[int]] = 10, temperature: float = 0.07, **kwargs):
        super().__init__(**kwargs)
        self.k = (k, ) if isinstance(k, int) else tuple(k)
        if not self.k or not all(isinstance(one, int) and one > 0 for one in self.k):
            raise ConfigError(f'k of KNNAccuracy is {k!r}; positive integers are expected.')
        self.temperature = temperature

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep the embeddings of a batch: ``feature`` (C, ), ``gt_label`` and ``is_reference``."""
        for sample in data_samples:
            # Pickled between processes, a row of a tensor would bring its whole batch along.
            self.results.append((sample['feature'].float().cpu().numpy(), int(sample['gt_label']),
                                 bool(sample.get('is_reference', False))))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Classify."""
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        parts = []
        for kind in (True, False):
            chosen = [(feature, label) for feature, label, is_reference in results
                      if is_reference is kind]
            if not chosen:
                raise ConfigError(
                    'KNNAccuracy found no ' + ('references: the pipeline of their data set needs '
                    "dict(type='MarkReference') and PackInputs with algorithm_keys="
                    "('is_reference', )." if kind else 'images to classify beside the references.'))
            features, labels = zip(*chosen)
            parts += [torch.from_numpy(np.stack(features)).to(device),
                      torch.tensor(labels, device=device)]
        return self.accuracies(*parts)

    def accuracies(self, references: Tensor, reference_labels: Tensor, queries: Tensor,
                   labels: Tensor) -> dict[str, float]:
        """Accuracies in percent of queries (Q, C) against references (R, C) and labels of both."""
        if max(self.k) > len(references):
            raise ConfigError(f'KNNAccuracy needs at least k={max(self.k)} references, found '
                              f'{len(references)}.')
        num_classes = int(max(reference_labels.max(), labels.max())) + 1
        tops = (1, 5) if num_classes > 5 else (1, )
        found = {}
        for k in self.k:
            votes = knn_scores(queries, references, reference_labels, num_classes, k,
                               self.temperature)
            suffix = '' if k == self.k[0] else f'_k{k}'
            for top, (accuracy, ) in zip(tops, Accuracy.calculate(votes, labels, tops, (None, ))):
                found[f'top{top}{suffix}'] = accuracy.item()
        return found
