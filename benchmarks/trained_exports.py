"""AP of small detectors of every kind, trained and exported: in PyTorch, onnxruntime and int8.

    python -m benchmarks.trained_exports --json exports.json        three to ten minutes a kind
    python -m benchmarks.trained_exports mask_rcnn smca --epochs 8

Each kind is trained with tools/train.py on the generated shapes, tested with tools/test.py,
exported with tools/export_onnx.py and quantised with tools/quantize.py. They are small, so that it
takes minutes: what counts is that a file has the AP of its detector, and how much of it int8 keeps.
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from mmengine.config import Config

from mmcontainer.compat import own_folder
from mmcontainer.demo import ShapesParams
from mmcontainer.demo.generate import generate_shapes
from mmcontainer.export.evaluation import average_precision, load_file, read_ground_truth

from .harness import package_versions
from .small_detectors import CONFIGS, small_config
from .store import format_table

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = dict(
    type='Container',
    # Transformers get stride 16: pictures of 96 pixels have 3 x 3 cells at stride 32.
    out_indices=(0, 1, 2), arch=dict(
        embed_dims=(16, 32, 64), depths=(1, 1, 2), mlp_ratios=(4, 4, 4), patch_sizes=(4, 2, 2),
        num_heads=(None, None, 4), static=dict(kind='depthwise', kernel_size=3)))
# Transformers learn the shapes more slowly, and with a lower rate. DETR learns few pictures, on
# which it is tested as well: of others it would not find any object after minutes.
_CONVOLUTIONS = dict(epochs=4, batch=16, rate=1e-3, pictures=2000)
_TRANSFORMERS = dict(epochs=12, batch=8, rate=5e-4, pictures=2000)
_DETR = dict(epochs=600, batch=8, rate=5e-4, pictures=16)


def schedule_of(kind: str, epochs: Optional[int]) -> dict:
    """Epochs, batch size, rate and pictures of a kind; ``epochs`` takes the place of its own."""
    schedule = (_DETR if kind.startswith('detr') else
                _TRANSFORMERS if 'detr' in kind or 'smca' in kind else _CONVOLUTIONS)
    return schedule if epochs is None else {**schedule, 'epochs': epochs}


def write_config(kind: str, schedule: dict, path: Path) -> None:
    """Write a config: a small detector, the shapes and their schedule.

    Args:
        kind (str): One of :data:`benchmarks.small_detectors.CONFIGS`.
        schedule (dict): See :func:`schedule_of`.
        path (Path): File to write.
    """
    model = small_config(kind, BACKBONE, width=32).model
    shapes = 'instance' if 'mask' in kind else 'detection'
    cfg = Config.fromfile(own_folder('configs') / f'_base_/shapes_{shapes}.py')
    cfg.model = model
    cfg.custom_imports = dict(imports=['mmcontainer', 'mmcontainer.detectors'])
    # Shapes are 10 to 50 pixels long, objects of COCO are larger.
    if 'rpn_head' in model:
        model.rpn_head.anchor_generator.scales = [4]
    elif 'anchor_generator' in model.bbox_head:
        model.bbox_head.anchor_generator.octave_base_scale = 2
    epochs = schedule['epochs']
    cfg.train_dataloader.batch_size = schedule['batch']
    if kind.startswith('detr'):
        cfg.train_dataloader.dataset.update(
            ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'))
    cfg.optim_wrapper.optimizer.lr = schedule['rate']
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks.checkpoint.interval = epochs
    cfg.param_scheduler[1].update(T_max=epochs, end=epochs)
    cfg.dump(str(path))


def _run(tool: str, *arguments, codes=(0, )) -> str:
    """Output of a tool.

    Raises:
        RuntimeError: It ends with another code than expected.
    """
    done = subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)],
                          cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode not in codes:
        raise RuntimeError(f'{tool} failed:\n{done.stdout}')
    return done.stdout


def measure(kind: str, schedule: dict, folder: Path) -> dict:
    """Train, test, export and quantise a detector.

    Args:
        kind (str): One of :data:`benchmarks.small_detectors.CONFIGS`.
        schedule (dict): See :func:`schedule_of`.
        folder (Path): For all files.

    Returns:
        dict: AP by metric of every form, and what tools/quantize.py said.
    """
    config, file = folder / f'{kind}.py', folder / f'{kind}.onnx'
    data, pictures = folder / f'{schedule["pictures"]}_shapes', schedule['pictures']
    if not data.exists():
        generate_shapes(data, ShapesParams(num_train=pictures, num_val=min(pictures, 200)))
    write_config(kind, schedule, config)
    work_dir, options = folder / kind, ('--data-root', data)
    _run('train.py', config, *options, '--work-dir', work_dir)
    checkpoint = work_dir / f'epoch_{schedule["epochs"]}.pth'
    output = _run('test.py', config, checkpoint, *options, '--work-dir', work_dir)
    tested = {metric: float(value)
              for metric, value in re.findall(r'coco/(bbox|segm) +(\d\.\d+)', output)}
    _run('export_onnx.py', config, checkpoint, file, '--check-images', data / 'val')
    annotations, images = data / 'annotations/instances_val.json', data / 'val'
    detector = load_file(file)
    truth = read_ground_truth(annotations, images, detector.classes)
    row = dict(kind=kind, **schedule, tested=tested, onnx=average_precision(detector, truth))
    said = _run('quantize.py', file, '--calibration', images, '--annotations', annotations,
                codes=(0, 2))
    int8 = file.with_name(f'{kind}_int8.onnx')
    if int8.exists():
        row['int8'] = average_precision(load_file(int8), truth)
        row['megabytes'] = [round(path.stat().st_size / 2**20, 2) for path in (file, int8)]
    else:
        row['refused'] = said.strip().splitlines()[-1].replace(f'{folder}/', '')
    return row


def render(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    def ap(values):
        return ', '.join(f'{value:.4f}' for value in values.values())

    return format_table(
        ['detector', 'metric', 'tools/test.py', 'onnxruntime', 'int8'],
        [[row['kind'], ', '.join(row['onnx']), ap(row['tested']), ap(row['onnx']),
          ap(row['int8']) if 'int8' in row else f'refused: {row["refused"]}'] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kinds', nargs='*', metavar='KIND', help=f'of {", ".join(CONFIGS)} (all)')
    parser.add_argument('--epochs', type=int,
                        help='4 of 2000 pictures; of transformers 12, of DETR 600 of 16 pictures')
    parser.add_argument('--json', type=Path, help='file for the results; kinds in it are not run')
    args = parser.parse_args()
    unknown = set(args.kinds) - set(CONFIGS)
    if unknown:
        parser.error(f'unknown: {", ".join(sorted(unknown))}; there are {", ".join(CONFIGS)}')
    stored = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    rows = stored.get('rows', [])
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        for kind in args.kinds or CONFIGS:
            if any(row['kind'] == kind for row in rows):
                continue
            rows.append(measure(kind, schedule_of(kind, args.epochs), folder))
            print(render(rows[-1:]), flush=True)
            if args.json:
                args.json.write_text(json.dumps(
                    dict(versions=package_versions(), rows=rows), indent=1) + '\n')
    print(render(rows))


if __name__ == '__main__':
    main()
