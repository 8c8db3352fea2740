"""Let the DETR family overfit four photographs, to see that it learns and how fast.

    python -m benchmarks.overfit_detr DATA --json overfit.json --plot overfit.png

DATA is laid out like COCO (annotations/instances_train2017.json, train2017/). DETR, Deformable DETR
and both SMCA-DETRs with Container-Light start from random weights and see the same four images in
every iteration: same seed, same size, same number of iterations. AP is that on the four images
themselves. No augmentation, dropout or drop path: nothing here is to generalise.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

from .plots import new_axes

ROOT = Path(__file__).resolve().parents[1]
DETECTORS = {'detr': 'DETR', 'deformable_detr': 'Deformable DETR', 'smca_detr': 'SMCA-DETR',
             'multi_scale_smca_detr': 'multi-scale SMCA-DETR'}
# Two to four large objects each, ten in all, of nine classes.
IMAGE_IDS = (30, 36, 86, 142)

CONFIG = '''_base_ = 'mmcontainer::detr/{name}_container_light_50e_coco.py'
model = dict(
    backbone=dict(drop_path_rate=0.),
    encoder=dict(layer_cfg=dict({encoder_dropout}, ffn_cfg=dict(ffn_drop=0.))),
    decoder=dict(layer_cfg=dict(
        self_attn_cfg=dict(dropout=0.), cross_attn_cfg=dict(dropout=0.),
        ffn_cfg=dict(ffn_drop=0.))))
resize = dict(type='Resize', scale=({size}, {size}), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), resize,
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), resize, dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
four = dict(data_root={data!r}, ann_file={annotations!r}, data_prefix=dict(img='train2017/'))
train_dataloader = dict(
    _delete_=True, batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='CocoDataset', pipeline=train_pipeline, **four))
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', test_mode=True, pipeline=test_pipeline, **four))
val_evaluator = dict(ann_file={annotations!r})
test_dataloader, test_evaluator = val_dataloader, val_evaluator
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters={iterations}, val_interval={interval})
optim_wrapper = dict(optimizer=dict(lr={lr}), paramwise_cfg=dict(
    custom_keys=dict(backbone=dict(lr_mult=1.))))
param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20), dict(
    type='MultiStepLR', by_epoch=False, milestones=[{drop}], gamma=0.1)]
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10**6, save_optimizer=False),
                     logger=dict(interval=10))
randomness = dict(seed=0)
'''


def select_images(data, path):
    """Write the annotations of the chosen images alone."""
    content = json.loads((data / 'annotations' / 'instances_train2017.json').read_text())
    content['images'] = [i for i in content['images'] if i['id'] in IMAGE_IDS]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in IMAGE_IDS]
    path.write_text(json.dumps(content))


def train(name, work_dir, **values):
    """Train with the project's own tool; returns curves of AP and loss, and the mean seconds."""
    config = work_dir / f'{name}.py'
    encoder_dropout = ('dropout=0.' if name.startswith('multi_scale') else
                       'self_attn_cfg=dict(dropout=0.)')
    config.write_text(CONFIG.format(name=name, encoder_dropout=encoder_dropout, **values))
    subprocess.run([sys.executable, ROOT / 'tools' / 'train.py', config, '--from-scratch',
                    '--work-dir', work_dir / name], check=True)
    log, = (work_dir / name).glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    seconds = [row['time'] for row in rows if 'loss' in row]
    results = [row['coco/bbox_mAP'] for row in rows if 'coco/bbox_mAP' in row]
    curve = [[values['interval'] * (i + 1), ap] for i, ap in enumerate(results)]
    losses = [[row['step'], row['loss']] for row in rows if 'loss' in row]
    return dict(ap=curve, loss=losses, seconds_per_iteration=sum(seconds) / len(seconds))


def plot(report, path):
    """Draw AP and loss against the iterations, in two panels."""
    figure, *panels = new_axes('', panels=2)
    for axes, key, label in zip(panels, ('ap', 'loss'),
                                ('box AP on the four images', 'training loss')):
        for name, run in report['runs'].items():
            axes.plot(*zip(*run[key]), label=DETECTORS[name])
        axes.set(xlabel='iteration (4 images)', ylabel=label)
        axes.legend(frameon=False)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path, help='folder in COCO layout')
    parser.add_argument('--detectors', nargs='+', choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/overfit_detr'))
    parser.add_argument('--iterations', type=int, default=400)
    parser.add_argument('--size', type=int, default=192, help='longer side of the images')
    parser.add_argument('--lr', type=float, default=2e-4)
    parser.add_argument('--json', type=Path, help='write the curves here')
    parser.add_argument('--plot', type=Path, help='draw the curves here')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    annotations = work_dir / 'four_images.json'
    select_images(args.data, annotations)
    settings = dict(iterations=args.iterations, size=args.size, lr=args.lr)
    report = dict(settings=settings, runs={})
    for name in args.detectors:
        report['runs'][name] = train(
            name, work_dir, data=str(args.data.resolve()), annotations=str(annotations),
            interval=25, drop=args.iterations * 4 // 5, **settings)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    if args.plot:
        plot(report, args.plot)


if __name__ == '__main__':
    main()
