#!/usr/bin/env python
"""Evaluate a checkpoint on the test data of its config."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_inference_options, add_run_arguments, make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'CONFIG CHECKPOINT --data-root data/coco',
        'CONFIG CHECKPOINT --out results.pkl --show-dir drawn'])
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    parser.add_argument('checkpoint', help='file that tools/train.py wrote')
    add_run_arguments(parser)
    add_inference_options(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write predictions for analysis tools')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside ground truth')
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.evaluate import evaluate
    evaluate(args)


if __name__ == '__main__':
    start(parse_args(), main)
