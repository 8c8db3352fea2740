#!/usr/bin/env python
"""Draw affinities: from where positions or queries collect, and how blocks mix them."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def _head(text):
    return text if text == 'mean' else int(text)


_head.__name__ = "number or 'mean'"  # what argparse calls it in its message


def parse_args():
    parser = make_parser(__doc__, [
        'CONFIG CHECKPOINT photo.jpg --position 25%,50%',
        'SMCA_CONFIG CHECKPOINT photo.jpg --query best'],
        note='Beside every picture lie its numbers (.npz, .json); docs/affinities.md says what '
        'is in them.')
    parser.add_argument('config', help='config of a detector, classifier or backbone')
    parser.add_argument('checkpoint', help='its checkpoint, or official weights of the backbone')
    parser.add_argument('image', help='image file')
    parser.add_argument('--layer', nargs='+', metavar='NAME',
                        help='blocks, as 3.0 or stages.3.blocks.0 (the last with both affinities)')
    parser.add_argument('--position', nargs='+', metavar='X,Y',
                        help="in pixels of the image file, or of its size: 120,80 or 25%%,50%%; "
                        "'cls' for a class token (three on the diagonal)")
    parser.add_argument('--head', nargs='+', type=_head, metavar='HEAD',
                        help="numbers of heads, of the dynamic affinity where there is one, or "
                        "'mean' (mean)")
    parser.add_argument('--channel', nargs='+', type=int, metavar='CHANNEL',
                        help='numbers of channels: the affinities that act on them')
    parser.add_argument('--query', nargs='+', metavar='QUERY',
                        help="of SMCA-DETR: numbers of queries whose attention in the decoder is "
                        "drawn, or 'best'; --layer is then a decoder layer (the last)")
    parser.add_argument('--out-dir', default='outputs', help='folder for the results (outputs)')
    parser.add_argument('--device', help='cpu, cuda:0, ... (the first GPU if there is one)')
    add_config_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.visualization.affinity_report import visualize_affinity
    visualize_affinity(args)


if __name__ == '__main__':
    start(parse_args(), main)
