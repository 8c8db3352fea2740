#!/usr/bin/env python
"""Export a detector, or a backbone alone, to ONNX, and check it against PyTorch."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def parse_args():
    parser = make_parser(__doc__, ['CONFIG CHECKPOINT detector.onnx',
                                   'CONFIG CHECKPOINT backbone.onnx --backbone-only'])
    parser.add_argument('config', help='config of a detector; with --backbone-only, or classifier')
    parser.add_argument('checkpoint', help='its checkpoint, or official weights of the backbone')
    parser.add_argument('out', help='.onnx file to write')
    parser.add_argument('--backbone-only', action='store_true',
                        help='export the backbone without the detector around it')
    parser.add_argument('--fixed-size', type=int, nargs=2, metavar=('H', 'W'),
                        help='make a file for images of this size alone (any size)')
    parser.add_argument('--score-thr', type=float,
                        help='lowest score of a detection (that of the config)')
    parser.add_argument('--max-per-img', type=int,
                        help='most detections of an image (that of the config)')
    parser.add_argument('--no-nms', action='store_true',
                        help='return the boxes and scores of all candidates')
    parser.add_argument('--check-images', nargs='+', metavar='FILE',
                        help='images or folders to compare on (those of the test data, or '
                        'generated ones)')
    parser.add_argument('--opset', type=int, default=18, help='ONNX operator set (18)')
    parser.add_argument('--no-deploy', action='store_true',
                        help='do not fold the norms into convolutions first')
    add_config_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.cli.export import export_onnx
    export_onnx(args)


if __name__ == '__main__':
    start(parse_args(), main)
