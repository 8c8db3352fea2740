"""What the page shows, without the page: a detector, photographs, and where it looks in them."""
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from torch import nn

from ..api.detector import Detector
from ..api.results import Detection, Detections
from ..cli.images import MAX_PIXELS, check_image
from ..errors import UserError
from ..pipeline import ImageError
from ..visualization.affinity import AffinityRows, Position
from ..visualization.block_rows import BlockRows, recording
from ..visualization.network_input import NetworkInput, prepare_image
from ..visualization.query_attention import QueryAttention, collect_layers


@dataclass
class Photograph:
    """A photograph that the detector has seen; nothing that is done with it runs the network again.

    Attributes:
        found: All objects, whatever their score; boxes are in pixels of the upright image.
        pixels: The image as the pipeline decodes it, (H, W) or (H, W, C) in BGR.
        image: As the network sees it.
        blocks: The blocks of the backbone, ready for any position.
        queries: Of SMCA-DETR: attention of all its queries in every layer of the decoder; else [].
    """
    found: Detections
    pixels: np.ndarray
    image: NetworkInput
    blocks: list[BlockRows]
    queries: list[QueryAttention]

    def shown(self, score_thr: float) -> list[tuple[int, Detection]]:
        """Objects with such a score or a better one, best first, with their numbers from 0."""
        return [(number, one) for number, one in enumerate(self.found) if one.score >= score_thr]

    def draw(self, score_thr: float) -> np.ndarray:
        """The image with boxes and labels, (h, w, 3) in RGB, uint8; small images are enlarged."""
        return self.found.draw(self.pixels, score_thr)

    def object_at(self, place: tuple[float, float], score_thr: float) -> Optional[int]:
        """Number of the smallest shown object whose box contains a place; None without one."""
        def area(item: tuple[int, Detection]) -> float:
            x1, y1, x2, y2 = item[1].bbox
            return (x2 - x1) * (y2 - y1)

        x, y = place
        inside = [item for item in self.shown(score_thr)
                  if item[1].bbox[0] <= x <= item[1].bbox[2]
                  and item[1].bbox[1] <= y <= item[1].bbox[3]]
        return min(inside, key=area)[0] if inside else None

    def rows_at(self, place: tuple[float, float]) -> list[AffinityRows]:
        """What a place (x, y), in pixels of the upright image, collects in every block."""
        position = Position(f'{place[0]:.0f}, {place[1]:.0f}', place)
        return [block.build(position, self.image) for block in self.blocks]

    def query_of(self, number: int) -> Optional[int]:
        """Line in ``queries`` of the query that found an object; None without queries."""
        if not self.queries:
            return None
        # MMDetection does not tell which query a box is from: it is the one that predicts it.
        last = self.queries[-1]
        corners = self.image.geometry.to_file(last.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        corners = corners.clip(0, [self.found.width, self.found.height] * 2)
        distance = np.abs(corners - self.found.detections[number].bbox).sum(axis=1)
        return int(distance.argmin())


class Explorer:
    """A detector, and the check of what it is given.

    Args:
        detector (Detector): In training form: deployed backbones have no affinities left.
        max_pixels (int): Files with more pixels are refused unread.
        kept (int): How many photographs, the latest ones, stay in memory.
    """

    def __init__(self, detector: Detector, max_pixels: int = MAX_PIXELS, kept: int = 2):
        self.detector, self.max_pixels, self._limit = detector, max_pixels, kept
        self._kept: OrderedDict[int, Photograph] = OrderedDict()
        self._opened = 0

    @property
    def has_queries(self) -> bool:
        """Whether the model is an SMCA-DETR, whose queries look around a point."""
        layers = getattr(getattr(self.detector.model, 'decoder', None), 'layers', [])
        return len(layers) > 0 and hasattr(layers[0], 'locate')

    def __getitem__(self, key: int) -> Photograph:
        """The photograph that :meth:`open` gave this number.

        Raises:
            UserError: Later ones have taken its place.
        """
        if key not in self._kept:
            raise UserError(f'Only the last {self._limit} photographs are kept, and this one is '
                            'older: drop it here again.')
        return self._kept[key]

    def open(self, path: Path, name: str) -> int:
        """Read a photograph, run the network on it, and keep it under the number returned.

        Args:
            path (Path): The file.
            name (str): What the user calls it.

        Raises:
            UserError: It is empty, no image, truncated, or too large.
        """
        model = self.detector.model
        if not path.stat().st_size:
            raise UserError(f'{name} is empty: 0 bytes. Was it copied completely?')
        try:
            check_image(str(path), self.max_pixels, 'this page')
            read = self.detector.read(path, name)
            # The neck of an SMCA-DETR gives what its transformer is run on again.
            last = model.neck if self.has_queries else model.backbone
            with recording(model.backbone) as blocks, _output_of(last) as features:
                found = self.detector.predict([read], 0.)[0]
        except ImageError as error:
            raise UserError(f'{name}: {error}. This page takes photographs, as JPEG, PNG, WebP, '
                            'BMP or TIFF files.') from error
        image = prepare_image(self.detector.cfg, model.data_preprocessor, path)
        queries = []
        if self.has_queries:
            queries = collect_layers(model, image, range(len(model.decoder.layers)),
                                     number=model.num_queries, features=features[-1])
        self._opened += 1
        self._kept[self._opened] = Photograph(
            found, read.pixels, image, [block for block in blocks if block.kept], queries)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return self._opened


@contextmanager
def _output_of(module: nn.Module) -> Iterator[list[Any]]:
    """Gather what a module returns inside of the context."""
    found = []
    handle = module.register_forward_hook(lambda module, args, out: found.append(out))
    try:
        yield found
    finally:
        handle.remove()
