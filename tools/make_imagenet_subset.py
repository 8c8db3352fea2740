#!/usr/bin/env python
"""List a share of the training images of every class, as a data set's ann_file.

The same share and seed give the same list on every machine, and the list of a smaller share is part
of that of a larger one.
"""
import _check_installed  # noqa: F401  before what it checks for
from _tool import make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'data/imagenet/train --share 0.1 --out data/imagenet/meta/train_10pct.txt'])
    parser.add_argument('folder', help='training images, one folder per class')
    parser.add_argument('--share', type=float, required=True,
                        help='share of the images of every class, for example 0.1 for 10 %%')
    parser.add_argument('--seed', type=int, default=0, help='another seed chooses other images (0)')
    parser.add_argument('--out', required=True, metavar='FILE', help='list to write')
    parser.add_argument('--force', action='store_true', help='replace FILE if there is one')
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.imagenet_subset import write_subset
    print(write_subset(args.folder, args.share, args.seed, args.out, args.force))


if __name__ == '__main__':
    start(parse_args(), main)
