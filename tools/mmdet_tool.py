#!/usr/bin/env python
"""Run a tool that MMDetection installs.

Useful ones: print_config, browse_dataset, analyze_logs, confusion_matrix, coco_error_analysis. What
stands behind the name goes to the tool; `-h` there shows its options.
"""
import sys

import _check_installed  # noqa: F401  before what it checks for
from _tool import make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'print_config CONFIG', 'analyze_logs plot_curve LOG.json --keys loss --out loss.png'])
    parser.add_argument('name', help='name of the tool')
    parser.add_argument('arguments', nargs='...', help='what goes to it')
    # Not by argparse alone: it would read options of the tool as its own.
    args = parser.parse_args(sys.argv[1:2])
    args.arguments = sys.argv[2:]
    return args


def main(args):
    from mmcontainer.cli.mmdet_tools import run_mmdet_tool
    run_mmdet_tool(args.name, args.arguments)


if __name__ == '__main__':
    start(parse_args(), main)
