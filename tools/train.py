#!/usr/bin/env python
"""Train a detector (or any model of an OpenMMLab library) from a config."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_run_arguments, make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'configs/retinanet/container_light_fpn_1x_coco.py',
        'my_config.py --amp bf16 --cfg-options train_cfg.max_epochs=3',
        'my_config.py --resume'])
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    add_run_arguments(parser)
    parser.add_argument('--from-scratch', action='store_true',
                        help='random weights on purpose; norms and stages are no longer frozen')
    parser.add_argument('--amp', choices=['fp16', 'bf16'],
                        help='mixed precision: fp16 on GPUs, bf16 on newer GPUs and on the CPU')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CKPT',
                        help='go on from CKPT, or from the last checkpoint in the work dir')
    parser.add_argument('--overwrite', action='store_true',
                        help='start anew in a work dir that holds checkpoints of another training')
    parser.add_argument('--allow-partial-load', action='store_true',
                        help='with load_from: load the weights that fit, and say how many do not')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the number of images per iteration')
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbone')
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.train import train
    train(args)


if __name__ == '__main__':
    start(parse_args(), main)
