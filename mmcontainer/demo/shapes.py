"""Command line of the generator: ``python -m mmcontainer.demo.shapes OUT``."""
import argparse
import sys

from .generate import ShapesParams, generate_shapes
from .maps import write_maps


def parse_args(argv=None) -> argparse.Namespace:
    defaults = ShapesParams()
    parser = argparse.ArgumentParser(
        prog='python -m mmcontainer.demo.shapes',
        description='Generate a detection and instance segmentation data set in COCO format.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', help='folder to create')
    parser.add_argument('--num-train', type=int, default=defaults.num_train,
                        help='training images')
    parser.add_argument('--num-val', type=int, default=defaults.num_val, help='validation images')
    parser.add_argument('--size', type=int, default=defaults.size,
                        help='side of the square images in pixels')
    parser.add_argument('--seed', type=int, default=defaults.seed,
                        help='the same seed gives the same files, byte for byte')
    parser.add_argument('--workers', type=int, default=1,
                        help='processes; the result does not depend on it')
    parser.add_argument('--maps', action='store_true',
                        help='also write maps for semantic segmentation into OUT/maps')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace a data set that was generated with other parameters')
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        params = ShapesParams(args.num_train, args.num_val, args.size, args.seed)
        generate_shapes(args.out, params, num_workers=args.workers, overwrite=args.overwrite)
        if args.maps and write_maps(args.out):
            print(f'{args.out}/maps: segmentation maps written')
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted: nothing was written', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
