#!/usr/bin/env python
"""Train a detector (or any model of an OpenMMLab library) from a config."""
import argparse

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import add_run_arguments, run_tool


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmcontainer::retinanet/...')
    add_run_arguments(parser)
    parser.add_argument('--from-scratch', action='store_true',
                        help='random weights on purpose; norms and stages are no longer frozen')
    parser.add_argument('--amp', choices=['fp16', 'bf16'],
                        help='mixed precision: fp16 on GPUs, bf16 on newer GPUs and on the CPU')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CKPT',
                        help='go on from CKPT, or from the last checkpoint in the work dir')
    parser.add_argument('--overwrite', action='store_true',
                        help='start anew in a work dir that holds checkpoints of another training')
    parser.add_argument('--allow-partial-load', action='store_true',
                        help='with load_from: load the weights that fit, and say how many do not')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the number of images per iteration')
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbone')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmcontainer.cli.train import train
    train(args)


if __name__ == '__main__':
    run_tool(main)
