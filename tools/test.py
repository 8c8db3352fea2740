#!/usr/bin/env python
"""Evaluate a checkpoint on the test data of its config."""
import argparse

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import add_inference_options, add_run_arguments, run_tool


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('checkpoint', help='file that tools/train.py wrote')
    add_run_arguments(parser)
    add_inference_options(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write predictions for analysis tools')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside ground truth')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmcontainer.cli.evaluate import evaluate
    evaluate(args)


if __name__ == '__main__':
    run_tool(main)
