#!/usr/bin/env python
"""Examine the data of a config: images, objects per class, what is left out, and what is wrong."""
import argparse

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import add_config_options, run_tool


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Writes nothing. The exit code is 2 if data cannot be used.')
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('--data-root', metavar='DIR',
                        help='read all data sets and annotations of the config from this folder')
    parser.add_argument('--splits', nargs='+', choices=['train', 'val', 'test'],
                        default=['train', 'val', 'test'], help='which to examine (all)')
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    from mmcontainer.cli.check_data import report_data
    return report_data(args)


if __name__ == '__main__':
    run_tool(main)
