#!/usr/bin/env python
"""Quantise an exported detector to int8, and keep the file only if its AP stays."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import make_parser, start


def parse_args():
    parser = make_parser(__doc__, [
        'detector.onnx --calibration IMAGES --annotations ANNOTATIONS.json',
        'detector.onnx --calibration IMAGES --annotations ANNOTATIONS.json --max-drop 0.005'])
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


def main(args):
    from mmcontainer.cli.quantize import quantize
    quantize(args)


if __name__ == '__main__':
    start(parse_args(), main)
