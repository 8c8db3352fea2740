"""Collect and draw the k-NN accuracy by epoch of DINO trainings.

    python -m benchmarks.dino_knn WORK_DIR ... --json dino_knn.json --plot dino_knn.png

Reads what ``tools/train.py`` logged, of resumed trainings the logs of all sessions. Epoch 0 is the
untrained network.
"""
import argparse
import json
from pathlib import Path

from mmcontainer.cli.reproduce import read_curve
from mmcontainer.errors import UserError
from mmcontainer.fileio import write_atomically

from .plots import new_axes

_METRIC = 'knn/top1'


def knn_curve(work_dir):
    """[[epoch, accuracy in percent], ...] of a work dir.

    Raises:
        UserError: No log in it has k-NN accuracies.
    """
    curve = read_curve(work_dir, _METRIC)
    if not curve:
        raise UserError(f'{work_dir} has no log (*/vis_data/scalars.json) with {_METRIC}: name the '
                        'work dir of a training by DINO.')
    return curve


def plot(curves, path):
    """Draw accuracy against epochs, and that of every untrained network as a dotted line."""
    figure, axes = new_axes('')
    for name, curve in curves.items():
        line, = axes.plot(*zip(*curve), marker='o', label=name)
        if curve[0][0] == 0:
            axes.axhline(curve[0][1], color=line.get_color(), linestyle=':')
    axes.set(xlabel='epoch (0: untrained)', ylabel='10-NN top-1, %')
    axes.legend(frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, metadata=dict(Software=None)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dirs', type=Path, nargs='+', help='of trainings by DINO')
    parser.add_argument('--json', type=Path, help='write the curves here')
    parser.add_argument('--plot', type=Path, help='draw the curves here')
    args = parser.parse_args()
    curves = {folder.name: knn_curve(folder) for folder in args.work_dirs}
    if args.json:
        text = json.dumps(curves, indent=1) + '\n'
        write_atomically(args.json, lambda file: Path(file).write_text(text, encoding='utf-8'))
    if args.plot:
        plot(curves, args.plot)
    for name, curve in curves.items():
        print(f'{name}: ' + ', '.join(f'{epoch}: {value:.1f}' for epoch, value in curve))


if __name__ == '__main__':
    from mmcontainer.cli.tool import run_tool
    run_tool(main)
