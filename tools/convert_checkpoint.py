#!/usr/bin/env python
"""Convert an official checkpoint to the parameter names of this package."""
import _check_installed  # noqa: F401  before what it checks for
from _tool import make_parser, start

# mmcontainer.checkpoints.SOURCES, which takes seconds to import; a test compares them.
SOURCES = ('container', 'cotnet', 'cotnet-detectron2', 'smca-detr', 'multi-scale-smca-detr',
           'timm-coatnet')


def parse_args():
    parser = make_parser(__doc__, ['DOWNLOADED_FILE checkpoints/container_light_in1k.pth'])
    parser.add_argument('src', help='official checkpoint file (read without executing code)')
    parser.add_argument('dst', help='file to write; a content hash is added to its name')
    parser.add_argument('--source', default='auto', choices=['auto', *SOURCES],
                        help='where the file comes from (default: recognised by its keys)')
    parser.add_argument('--to-official', action='store_true',
                        help='convert back to the official names; needs --source')
    args = parser.parse_args()
    if args.to_official and args.source == 'auto':
        parser.error('--to-official needs --source, the naming scheme to convert to.')
    return args


def main(args):
    from mmcontainer.checkpoints import detect_source, get_source, read_weights, save_with_hash
    from mmcontainer.cli.paths import check_writable_file
    from mmcontainer.errors import as_user_error
    with as_user_error():
        state_dict, _ = read_weights(args.src)
        source = detect_source(state_dict) if args.source == 'auto' else args.source
        table = get_source(source)
        converted = table.convert(state_dict, reverse=args.to_official)
    check_writable_file(args.dst, 'the file to write')
    print('\n'.join(table.describe(state_dict, reverse=args.to_official)))
    path = save_with_hash(converted, args.dst)
    direction = 'to' if args.to_official else 'from'
    print(f'Mapped all {len(state_dict)} entries {direction} source {source!r}; wrote {path}')


if __name__ == '__main__':
    start(parse_args(), main)
