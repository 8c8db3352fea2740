#!/usr/bin/env python
"""Count multiply-adds, attention included, and parameters of a config's model."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'configs/retinanet/container_light_fpn_1x_coco.py',
        'mmcontainer::imagenet/container_light_8xb128_in1k.py --shape 224 224'])
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='height and width of the image (as in the papers: 800 1280, 224 224 '
                        'for a classifier)')
    add_config_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.analysis.report import report_flops
    print(report_flops(args.config, args.shape, args.cfg_options))


if __name__ == '__main__':
    start(parse_args(), main)
