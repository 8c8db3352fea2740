"""Addresses of the official weights, by the names under which our configs expect them."""
from pathlib import Path
from typing import Union

_DRIVE = 'https://drive.google.com/file/d/{}/view ({}, ImageNet-1k, README of github.com/{})'
_RELEASED = {
    'container_light_in1k': _DRIVE.format(
        '1WMOWoxTX7AQDCbfMYh7naqIHube3K85A', 'Container-Light', 'allenai/container'),
    **{f'{name.lower().replace("-", "_")}_in1k': _DRIVE.format(file, name, 'JDAI-CV/CoTNet')
       for name, file in {
           'CoTNet-50': '1SR5ezIu7LN943zHaUh4mC0ehxBVMqtfv',
           'CoTNeXt-50': '1j6b5D3xcZ5L_bHiQV0WfqyOieqZLVOCv',
           'SE-CoTNetD-50': '1D2b5fr3lxpBpiFcCYBKngmmSgfVHt_56',
           'CoTNet-101': '11jExbPEg4Eq5PApisZyE5k-1CbRYnsQb',
           'CoTNeXt-101': '1des5wgkBDUscQAs8IYOmKCKKUA46QLfJ',
           'SE-CoTNetD-101': '1PWIltQYpYZiDrpfZORRQzGzQeXVd2b2f',
           'SE-CoTNetD-152': '1MkMx0a8an3ikt6LZwClIOyabBnMfR91v',
       }.items()},
}

# Of which no weights were ever published, and how to train them.
_NEVER_RELEASED = {
    **{f'{name}_imagenette':
       (f'They come from a small training of ours: mmcontainer reproduce imagenette_{name} '
        '--data-root IMAGENETTE, and then python -m benchmarks.imagenette_weights '
        '(docs/results.md).')
       for name in ('container_light', 'r50')},
    'container_light_paper_in1k':
    ("No weights of the paper's 20.0 M model were published; the released ones belong to arch "
     "'light' (configs named container_light_fpn_*). Pre-train it yourself and put the file "
     'there.'),
    'container_base_in1k':
    ("No weights of Container itself (arch 'base') were published. Pre-train it yourself with "
     'configs/imagenet/container_base_8xb128_in1k.py and put the file there.'),
    'coatnet_0_in1k':
    ("No weights of the paper's CoAtNets were published. Pre-train it yourself with "
     'configs/imagenet/coatnet_0_8xb128_in1k.py and put the file there, or use those of a variant '
     'of timm (docs/coatnet.md).'),
}

_FROM_SCRATCH = ('To train from random weights on purpose, add --from-scratch to tools/train.py '
                 '(or set model.backbone.init_cfg to None in your own config).')


def missing_message(path: Union[str, Path]) -> str:
    """Explain to a person how to get the pretrained checkpoint that should be at ``path``."""
    path = Path(path)
    lines = [f'Pretrained weights not found: {path}']
    if path.stem in _RELEASED:
        lines += [
            f'1. Download the official file in a browser: {_RELEASED[path.stem]}.',
            f'2. Convert it: mmcontainer convert DOWNLOADED_FILE {path}',
            '   (it adds a content hash to the name; the file is found all the same).'
        ]
    elif path.stem in _NEVER_RELEASED:
        lines.append(_NEVER_RELEASED[path.stem])
    else:
        lines.append('Check the path in init_cfg; a relative path starts from the current folder. '
                     f'Official files are converted by: mmcontainer convert DOWNLOADED_FILE {path}')
    return '\n'.join([*lines, _FROM_SCRATCH])
