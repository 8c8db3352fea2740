"""Convert an official checkpoint to the parameter names of this package.

Example: python tools/convert_checkpoint.py downloaded.pth checkpoints/container_light_in1k.pth
"""
import argparse
import sys

from mmcontainer.checkpoints import (CorruptCheckpointError, KeyMismatchError, SOURCES,
                                     UnsafeCheckpointError, detect_source, get_source, load_file,
                                     save_with_hash, unwrap_state_dict)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main() -> int:
    args = parse_args()
    try:
        state_dict = unwrap_state_dict(load_file(args.src))
        source = detect_source(state_dict) if args.source == 'auto' else args.source
        converted = get_source(source).convert(state_dict, reverse=args.to_official)
        for old, new in zip(state_dict, converted):
            print(f'{old} -> {new}  {tuple(state_dict[old].shape)}')
        path = save_with_hash(converted, args.dst)
    except (CorruptCheckpointError, KeyMismatchError, UnsafeCheckpointError, OSError,
            TypeError) as error:
        print(f'convert_checkpoint: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('convert_checkpoint: interrupted, nothing written.', file=sys.stderr)
        return 130
    direction = 'to' if args.to_official else 'from'
    print(f'Mapped all {len(converted)} entries {direction} source {source!r}; wrote {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
