#!/usr/bin/env python
"""Export the backbone of a config to ONNX, for any image size, and check it with onnxruntime."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def parse_args():
    parser = make_parser(__doc__, ['CONFIG CHECKPOINT backbone.onnx'])
    parser.add_argument('config', help='config of a detector or classifier')
    parser.add_argument('checkpoint', help='its checkpoint, or official weights of the backbone')
    parser.add_argument('out', help='.onnx file to write')
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 256), metavar=('H', 'W'),
                        help='size of the example image (224 256); the file takes any size')
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
