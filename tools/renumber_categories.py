#!/usr/bin/env python
"""Write a copy of a COCO annotation file whose categories are numbered 1, 2, ... in a given order.

MMDetection numbers classes in the order in which categories stand in the file. Files for training,
validation and tests need the same order, ascending numbers, and every name once.
"""
import _check_installed  # noqa: F401  before what it checks for
from _tool import make_parser, start


def parse_args():
    parser = make_parser(__doc__, ['train.json train_numbered.json --names cat dog'])
    parser.add_argument('source', help='annotation file to read')
    parser.add_argument('target', help='annotation file to write; it must not exist')
    parser.add_argument('--names', nargs='+', metavar='NAME',
                        help='names of the categories in their order (default: as in the file); '
                        'those that the file lacks are added')
    return parser.parse_args()


def main(args):
    from mmcontainer.data_check.repair import renumber_file
    print(renumber_file(args.source, args.target, args.names))


if __name__ == '__main__':
    start(parse_args(), main)
