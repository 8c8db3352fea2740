"""Checks of segmentation maps: each image has one, of its size, whose values are classes."""
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from ..pillow_limit import pillow_limit_lifted
from .files import read_header
from .report import Report, counted, listed
from .sources import Source
from .usage import find_transform

# So many maps are decoded, spread over the data set: some seconds.
_DECODED = 200
_IGNORED = 255  # by losses and metrics


def _entries(source: Source, report: Report) -> tuple[list[dict[str, Any]], Optional[range]]:
    """What a data set will read, by its own rules, and the values that its maps may have."""
    arguments = {key: value for key, value in source.config.items()
                 if key not in ('type', '_scope_')}
    try:
        dataset = source.cls(**{**arguments, 'pipeline': [], 'lazy_init': True})
        entries = dataset.load_data_list()
    except (TypeError, ValueError, AssertionError, OSError) as error:
        report.problems.append(f'{source.type_name} cannot be built: {error}')
        return [], None
    if not entries:
        report.problems.append(
            f'there are no images that end with {dataset.img_suffix!r} in '
            f'{dataset.data_prefix.get("img_path")}: img_suffix of the data set says what they end '
            'with')
    # A data set that leaves classes of its kind out has maps with all of them.
    number = len(dataset.metainfo.get('label_map') or dataset.metainfo.get('classes') or ())
    # With reduce_zero_label, 0 is nothing, and the classes count from 1.
    return entries, range(number + bool(dataset.reduce_zero_label)) if number else None


def _fault(entry: dict[str, Any], allowed: Optional[range], loader: dict) -> str:
    """Say what is wrong with a map, without its name; an empty string if nothing is."""
    try:
        with pillow_limit_lifted(), Image.open(entry['seg_map_path']) as picture:
            values = np.asarray(picture)
            values = values.astype(np.uint8) if picture.mode == '1' else values  # 0 and 1
    except (OSError, ValueError, SyntaxError):
        return 'no readable image'
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        return (f'a map has one whole number per pixel, found an array of {values.shape} '
                f'{values.dtype}: colours have to be replaced by the numbers of classes')
    header = read_header(Path(entry['img_path']), loader)
    if header is not None and header.size != values.shape:
        return (f'{values.shape[1]} wide and {values.shape[0]} high, but its image '
                f'{header.size[1]} and {header.size[0]}')
    if allowed is None:
        return ''
    wrong = [value for value in np.unique(values).tolist()
             if value not in allowed and value != _IGNORED]
    return (f'it has {listed(wrong)}, but values from 0 to {allowed[-1]}, and {_IGNORED} for '
            'pixels that do not count, are expected') if wrong else ''


def check_maps(source: Source, report: Report) -> None:
    """Check the segmentation maps of a data set.

    All have to be there. Of 200 the pixels are read: one whole number each, that of a class or 255,
    and as many as the image has.

    Args:
        source (Source): Of kind 'maps'.
        report (Report): Gets problems, which do not say of what data set, and a summary.
    """
    entries, allowed = _entries(source, report)
    with_maps = [entry for entry in entries if 'seg_map_path' in entry]
    missing = [entry['seg_map_path'] for entry in with_maps
               if not Path(entry['seg_map_path']).is_file()]
    if missing:
        report.problems.append(
            f'{counted(len(missing), "image")} of {len(entries)} have no map: '
            f'{listed(missing)}. A map has the name of its image, and ends with seg_map_suffix of '
            'the data set')
    if report.problems:
        return
    sample = with_maps[::max(1, len(with_maps) // _DECODED)]
    loader = find_transform(source, 'LoadImageFromFile')
    faults = {entry['seg_map_path']: fault for entry in sample
              if (fault := _fault(entry, allowed, loader))}
    if faults:
        path, fault = next(iter(faults.items()))
        report.problems.append(f'{len(faults)} of {counted(len(sample), "map")} examined cannot be '
                               f'used: {path}: {fault}')
    report.summaries.append(f'{source.label}: {counted(len(entries), "image")}, '
                            f'{len(with_maps)} with a map')
