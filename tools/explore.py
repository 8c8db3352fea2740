#!/usr/bin/env python
"""Look inside a detector in the browser: objects, and what a point or a query attends to."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import add_config_options, make_parser, start


def parse_args():
    parser = make_parser(__doc__, ['CONFIG CHECKPOINT', 'CONFIG CHECKPOINT --port 8000'],
                         note='The page is for this machine alone (127.0.0.1) and works without a '
                         'network. It needs Gradio; docs/explore.md says how to install it.')
    parser.add_argument('config', help='config of a detector')
    parser.add_argument('checkpoint', help='file that tools/train.py wrote')
    parser.add_argument('--port', type=int, help='of the page (the first free one from 7860)')
    parser.add_argument('--device', help='cpu, cuda:0, ... (the first GPU if there is one)')
    add_config_options(parser)
    return parser.parse_args()


def main(args):
    from mmcontainer.explore.page import explore
    explore(args)


if __name__ == '__main__':
    start(parse_args(), main)
