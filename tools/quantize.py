#!/usr/bin/env python
"""Quantise an exported detector to int8, and keep the file only if its AP stays."""
import argparse

import _check_installed  # noqa: F401  before what it checks for

from mmcontainer.cli.tool import run_tool


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', help='.onnx file of a detector, of tools/export_onnx.py')
    parser.add_argument('--calibration', required=True, metavar='FOLDER',
                        help='folder of the images to calibrate and evaluate on')
    parser.add_argument('--annotations', required=True, metavar='FILE.json',
                        help='their annotations in COCO format')
    parser.add_argument('--max-drop', type=float, default=0.01, metavar='AP',
                        help='largest loss of AP, from 0 to 1, with which the file stays (0.01)')
    parser.add_argument('--num-images', type=int, default=100, metavar='N',
                        help='so many of the images calibrate, spread over all; all of them '
                        'evaluate (100)')
    parser.add_argument('--output', metavar='OUT.onnx',
                        help='file to write (FILE_int8.onnx)')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmcontainer.cli.quantize import quantize
    quantize(args)


if __name__ == '__main__':
    run_tool(main)
