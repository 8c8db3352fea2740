#!/usr/bin/env python
"""Count multiply-adds, attention included, and parameters of a config's model."""
import argparse

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import add_config_options, run_tool


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='height and width of the image (as in the papers: 800 1280, 224 224 '
                        'for a classifier)')
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    from mmcontainer.analysis.report import report_flops
    print(report_flops(args.config, args.shape, args.cfg_options))


if __name__ == '__main__':
    run_tool(main)
