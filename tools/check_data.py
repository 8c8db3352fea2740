#!/usr/bin/env python
"""Examine the data of a config: images, objects per class, what is left out, and what is wrong."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'configs/retinanet/container_light_fpn_1x_coco.py',
        'my_config.py --data-root data/mine --splits train val'],
        note='Writes nothing. The exit code is 2 if data cannot be used.')
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('--data-root', metavar='DIR',
                        help='read all data sets and annotations of the config from this folder')
    parser.add_argument('--splits', nargs='+', choices=['train', 'val', 'test'],
                        default=['train', 'val', 'test'], help='which to examine (all)')
    add_config_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.check_data import report_data
    return report_data(args)


if __name__ == '__main__':
    start(parse_args(), main)
