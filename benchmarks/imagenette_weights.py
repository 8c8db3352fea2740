"""Write the weights that detectors start from, of classifiers trained on Imagenette.

    python -m benchmarks.imagenette_weights
"""
from pathlib import Path

import torch

from mmcontainer.checkpoints import read_weights
from mmcontainer.fileio import write_atomically

_RUNS, _FOLDER = Path('work_dirs', 'reproduce'), Path('checkpoints')
_NETWORKS = ('container_light', 'r50')


def slim(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round weights to float16, and set those to 0 that never met anything but padding.

    These are the outer ring of the 5 x 5 kernels of the Container family in stage 4: there, images
    of 64 x 64 pixels have maps of 2 x 2 positions. On a detector's larger maps they would act, with
    the random numbers that they started with.

    Args:
        weights (dict[str, Tensor]): Of a classifier; stays as it is.
    """
    slimmed = {}
    for key, value in weights.items():
        slimmed[key] = value = value.half() if value.is_floating_point() else value.clone()
        if key.startswith('backbone.stages.3.') and key.endswith('.aggregation.static.weight'):
            value[..., [0, -1], :] = 0.
            value[..., :, [0, -1]] = 0.
    return slimmed


def write() -> None:
    """Write the files of those that have been trained."""
    for network in _NETWORKS:
        trained = _RUNS / f'imagenette_{network}' / 'epoch_8.pth'
        if not trained.is_file():
            print(f'{trained} is missing. To train it: python tools/reproduce.py '
                  f'imagenette_{network}')
            continue
        weights = slim(read_weights(trained)[0])
        target = _FOLDER / f'{network}_imagenette.pth'
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, lambda file, weights=weights: torch.save(
            dict(state_dict=weights), file))
        print(f'{target} is written.')


if __name__ == '__main__':
    from mmcontainer.cli.tool import run_tool
    run_tool(write)
