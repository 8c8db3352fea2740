"""``tools/quantize.py``: an int8 copy of an exported detector, whose AP must stay."""
from pathlib import Path

import numpy as np

from ..engine.summary import table
from ..errors import UserError
from ..fileio import write_atomically
from ..machine import cpu_name, lacks_int8_products
from .paths import check_writable_file

# Images that the speed is measured on.
_TIMED = 20


def _import_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f'Quantisation needs the package {error.name!r}: '
                        'pip install "mmcontainer[quantize]"') from error


def _check_options(args) -> Path:
    """The file to write."""
    source = Path(args.file)
    target = check_writable_file(args.output or source.with_name(f'{source.stem}_int8.onnx'),
                                 '--output')
    if target.suffix != '.onnx':
        raise UserError(f'--output {target}: a file that ends with .onnx is expected.')
    if target.resolve() == source.resolve():
        raise UserError(f'--output {target} is the file to read: name another one.')
    if args.num_images < 1:
        raise UserError(f'--num-images is a number of images, not {args.num_images}.')
    if not args.max_drop < 1:
        raise UserError(f'--max-drop is a difference of AP, below 1, not {args.max_drop}.')
    return target


def _check_reference(ap: dict[str, float], args) -> None:
    low = min(ap, key=ap.get)
    if ap[low] <= args.max_drop:
        raise UserError(
            f'{args.file} has {low} AP {ap[low]:.4f} on {args.annotations}, which is not even '
            f'--max-drop ({args.max_drop}): no loss could be told. Name annotations of data that '
            'the detector was trained for.')


def _check_drop(before: dict[str, float], after: dict[str, float], args, target: Path) -> None:
    for metric, ap in before.items():
        if not ap - after[metric] <= args.max_drop:
            raise UserError(
                f'In int8, {metric} AP on {args.annotations} is {after[metric]:.4f} instead of '
                f'{ap:.4f}; --max-drop allows a loss of {args.max_drop}. {target} was not written. '
                'More images that look like those in use may help (--calibration, --num-images).')


def quantize(args) -> None:
    """Quantise as the command line says; a file that loses too much does not stay.

    Args:
        args (argparse.Namespace): Arguments of ``tools/quantize.py``.

    Raises:
        UserError: Packages or files missing, or a loss of AP above the bound.
    """
    _import_packages()
    target = _check_options(args)
    from ..export.evaluation import average_precision, load_file, read_ground_truth
    from ..export.quantization import milliseconds, quantize_file
    detector = load_file(args.file)
    if 'quantization' in detector.metadata:
        raise UserError(f'{args.file} is quantised already.')
    truth = read_ground_truth(args.annotations, args.calibration, detector.classes)
    print(f'AP of {args.file} on {len(truth.images)} images ...', flush=True)
    before = average_precision(detector, truth)
    _check_reference(before, args)
    paths = list(truth.images.values())
    number = min(args.num_images, len(paths))
    calibration = [detector.prepare(detector.read(paths[i]))[0]
                   for i in np.linspace(0, len(paths) - 1, number).round().astype(int)]
    results = []

    def write(path: str) -> None:
        bits = 7 if lacks_int8_products() else 8
        print(f'quantising, calibrated on {len(calibration)} images, weights of {bits} bits'
              + (' (this CPU has no VNNI) ...' if bits == 7 else ' ...'), flush=True)
        quantize_file(args.file, path, calibration, bits)
        after = average_precision(load_file(path), truth)
        _check_drop(before, after, args, target)
        results.extend([after, milliseconds([args.file, path], calibration[:_TIMED])])

    write_atomically(target, write)
    after, times = results
    rows = [(name, f'{Path(path).stat().st_size / 2**20:.1f}', f'{taken:.0f}',
             *(f'{value:.3f}' for value in ap.values()))
            for name, path, taken, ap in zip(('float32', 'int8'), (args.file, target), times,
                                             (before, after))]
    print('\n'.join(table(('', 'MB', 'ms/image', *(f'{name} AP' for name in before)), rows)))
    print(f'{target}: {times[0] / times[1]:.2f} times as fast with onnxruntime on {cpu_name()}')
