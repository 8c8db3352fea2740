#!/usr/bin/env python
"""Reproduce a row of a paper's table: check everything, train, test, and note the result."""
import argparse

import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'a number from 1 on is expected, not {text}')
    return number


def parse_args():
    parser = make_parser(__doc__, ['--list', 'retinanet_container_light --gpus 8 --dry-run'])
    parser.add_argument('row', nargs='?', help='for example retinanet_container_light')
    parser.add_argument('--list', action='store_true',
                        help='show all rows: what was published, what they need, their state')
    parser.add_argument('--data-root', metavar='DIR', help='the data set, where it lies elsewhere')
    parser.add_argument('--gpus', type=positive, metavar='N',
                        help='GPUs to use; as many of the machine as divide those of the recipe')
    parser.add_argument('--work-dir', metavar='DIR', help='folder of logs and checkpoints '
                        '(work_dirs/reproduce/ROW)')
    add_config_options(parser)
    parser.add_argument('--dry-run', action='store_true',
                        help='check everything and show the commands; write nothing')
    parser.add_argument('--small', action='store_true',
                        help='the same on a few generated images, in minutes')
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.reproduce import reproduce
    reproduce(args)


if __name__ == '__main__':
    start(parse_args(), main)
