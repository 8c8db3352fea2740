"""Images per second of one loader's worker at the size of COCO's recipes, by decoder.

    python -m benchmarks.data_pipeline --data-root DATA

Every contestant runs the training pipeline of a config on the same photographs, read from memory as
far as the system caches files, with one thread as a worker has it: decode, resize to 1333 x 800,
flip, pack. A decoder that is not installed is left out, and named.
"""
import argparse
import copy
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import mmcv
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.registry import DefaultScope

from mmcontainer.cli.configs import load_config
from mmcontainer.cli.data_root import set_data_root
from mmcontainer.cli.tool import run_tool
from mmcontainer.errors import UserError

from .harness import alternate, describe_machine
from .store import decoder_table, save_cases

CONFIG = 'mmcontainer::retinanet/container_light_fpn_1x_coco.py'
CPU = torch.device('cpu')


@TRANSFORMS.register_module()
class LoadWithTorchvision:
    """Decode a JPEG file by torchvision, to BGR as OpenCV has it."""

    def __call__(self, results: dict) -> dict:
        from torchvision.io import ImageReadMode, decode_image, read_file
        image = decode_image(read_file(results['img_path']), ImageReadMode.RGB)
        results['img'] = image.flip(0).permute(1, 2, 0).contiguous().numpy()
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results


def _mmcv(backend: str) -> dict:
    return dict(type='LoadImageFromFile', imdecode_backend=backend)


DECODERS = {'OpenCV': _mmcv('cv2'), 'Pillow': _mmcv('pillow'), 'TurboJPEG': _mmcv('turbojpeg'),
            'torchvision': dict(type='LoadWithTorchvision')}
PACKAGES = {'OpenCV': 'cv2', 'Pillow': 'PIL', 'TurboJPEG': 'turbojpeg',
            'torchvision': 'torchvision'}


def make_call(transforms: Sequence[dict], images: Sequence[dict]) -> Callable:
    """A function that runs a pipeline over all images."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        pipeline = Compose(transforms)

    def call():
        for image in images:
            pipeline(copy.deepcopy(image))
    return call


def run(data_root: Path, number: int, rounds: int) -> dict:
    """Measure all decoders that are installed, alone and within the pipeline.

    Returns:
        dict: A case as :mod:`benchmarks.store` keeps it; times are those of one image.
    """
    cfg = load_config(CONFIG)
    set_data_root(cfg, str(data_root))
    dataset = cfg.train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmdet'):
        images = [image for image in DATASETS.build({**dataset, 'pipeline': []}).load_data_list()
                  if image['instances']][:number]
    calls = {}
    for name, loader in DECODERS.items():
        if find_spec(PACKAGES[name]) is None:
            print(f'{name}: left out, {PACKAGES[name]} is not installed')
            continue
        if name == 'TurboJPEG':  # without this call mmcv has no decoder of that name
            mmcv.use_backend('turbojpeg')
        calls[f'{name}, decode'] = make_call([loader], images)
        calls[f'{name}, whole pipeline'] = make_call([loader, *dataset.pipeline[1:]], images)
    rows = [dict(form=name, times=[seconds / len(images) for seconds in row['times']],
                 seconds=row['seconds'] / len(images), memory_mb=row['memory_mb'])
            for name, row in alternate(calls, rounds, CPU).items()]
    return dict(suite='data_pipeline', name='800 x 1333', passes='training', batch=1,
                dtype='uint8', rows=rows, machine=describe_machine(CPU))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.data_pipeline',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--data-root', required=True, type=Path, help='as for train.py')
    parser.add_argument('--images', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--json', metavar='FILE', help='merge the results into this file')
    args = parser.parse_args()
    if args.images < 1:
        raise UserError(f'--images must be at least 1, got {args.images}.')
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    case = run(args.data_root, args.images, args.rounds)
    print(f'\n{case["machine"]["hardware"]}, 1 thread\n\n{decoder_table(case)}')
    if args.json:
        save_cases(args.json, [case])


if __name__ == '__main__':
    run_tool(main)
