"""``tools/export_onnx.py``: what it is given, and a backbone as a file for images of any size."""
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch

from ..backbones import BaseBackbone
from ..checkpoints import load_backbone
from ..errors import UserError, as_user_error
from ..export.onnx_file import write_onnx
from ..fileio import write_atomically
from ..torch_compat import require
from .configs import build_model, load_config
from .paths import check_writable_file

# Size of the example images, and another that shares no factor with it: the file has to be right
# for all.
_EXAMPLE_SIZE, _OTHER_SIZE = (224, 256), (97, 161)
# Largest error of onnxruntime over the standard deviation of each output.
TOLERANCE = 1e-3


def _import_packages() -> None:
    require('ONNX export', '2.6.0')
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'ONNX export needs the package {error.name!r}: '
                        'pip install "mmcontainer[onnx]"') from error


def _build_backbone(cfg) -> BaseBackbone:
    config = cfg.model.get('backbone')
    if not isinstance(config, dict):
        raise UserError('The config has no model.backbone.')
    backbone = build_model({**config, 'init_cfg': None}, cfg.get('default_scope', 'mmengine'))
    if not isinstance(backbone, BaseBackbone):
        raise UserError(f'{type(backbone).__name__} is no backbone of this package; export it with '
                        'torch.onnx.')
    return backbone


def export_backbone(backbone: BaseBackbone, path: Path, size: Optional[Sequence[int]] = None,
                    opset: int = 18) -> None:
    """Write a backbone as an ONNX file for any batch.

    Args:
        backbone (BaseBackbone): In evaluation mode, on the CPU.
        path (Path): File to write.
        size (Sequence[int], optional): (height, width) of the only images that the file takes; None
            is any.
        opset (int): Version of the ONNX operator set.
    """
    write_onnx(
        backbone, torch.randn(2, backbone.in_channels, *(size or _EXAMPLE_SIZE)), str(path),
        [f'stage{i}' for i in backbone.out_indices],
        {0: 'batch'} if size else {0: 'batch', 2: 'height', 3: 'width'}, opset=opset)


@torch.no_grad()
def largest_error(backbone: BaseBackbone, path: Path, batch: int, size: Sequence[int]) -> float:
    """Largest difference between onnxruntime and PyTorch, over each output's standard deviation."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    images = torch.randn(batch, backbone.in_channels, *size)
    outs = session.run(None, {'images': images.numpy()})
    errors = [(torch.from_numpy(out) - expected).abs().max() / expected.std()
              for out, expected in zip(outs, backbone(images))]
    return torch.stack(errors).max().item()  # NaN if one of them is, unlike Python's max


def _export_backbone_only(args, cfg, target: Path) -> None:
    """Compare with PyTorch before anything stays, at two sizes if the file takes any."""
    given = [f'--{name.replace("_", "-")}'
             for name in ('score_thr', 'max_per_img', 'no_nms', 'check_images')
             if getattr(args, name) is not None and getattr(args, name) is not False]
    if given:
        raise UserError(f'{", ".join(given)} is about detections, and --backbone-only exports a '
                        'backbone, which makes none: leave one of the two out.')
    backbone = _build_backbone(cfg).eval()
    with as_user_error():
        load_backbone(backbone, args.checkpoint)
    if not args.no_deploy:
        backbone.switch_to_deploy()

    def write(path: str) -> None:
        export_backbone(backbone, Path(path), args.fixed_size, args.opset)
        for batch, size in ((2, args.fixed_size or _EXAMPLE_SIZE),
                            (1, args.fixed_size or _OTHER_SIZE)):
            error = largest_error(backbone, Path(path), batch, size)
            print(f'onnxruntime, {batch} x {backbone.in_channels} x {size[0]} x {size[1]}: largest '
                  f'error {error:.1e} of the standard deviation', flush=True)
            if not error <= TOLERANCE:
                raise UserError(f'The exported model gives other numbers than PyTorch (error '
                                f'{error:.1e}, allowed {TOLERANCE}); {target} was not written.')

    write_atomically(target, write)
    sides = ' x '.join(map(str, args.fixed_size)) if args.fixed_size else (
        f'any height and width from {backbone.strides[-1]}')
    print(f'{target}: {target.stat().st_size / 2**20:.0f} MB, outputs '
          f'{", ".join(f"stage{i}" for i in backbone.out_indices)}, any batch, {sides}')


def export_onnx(args) -> None:
    """Export a detector, or a backbone, as the command line says; nothing unchecked stays.

    Args:
        args (argparse.Namespace): Arguments of ``tools/export_onnx.py``.

    Raises:
        UserError: Packages missing, nothing to export, or a file that gives other numbers.
    """
    _import_packages()
    target = check_writable_file(args.out, 'the file to write')
    if target.suffix != '.onnx':
        raise UserError(f'{args.out}: a file that ends with .onnx is expected.')
    cfg = load_config(args.config, args.cfg_options)
    if args.backbone_only:
        _export_backbone_only(args, cfg, target)
        return
    # Imported late: a backbone is exported without MMDetection.
    from .export_detector import export_detector
    export_detector(args, cfg, target)
