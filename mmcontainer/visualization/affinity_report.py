"""``tools/visualize_affinity.py``: figures of the affinities of a checkpoint, and their numbers."""
import json
from pathlib import Path

import numpy as np
from torch import nn

from ..api.detector import choose_device
from ..backbones import ContainerPAM
from ..checkpoints import load_backbone
from ..cli.configs import build_model, load_config
from ..cli.paths import check_writable_folder
from ..errors import UserError, as_user_error
from ..fileio import write_text
from .affinity import (
    AffinityRows,
    Mixture,
    collect_rows,
    default_positions,
    find_layers,
    list_mixtures,
    parse_position,
)
from .affinity_figures import draw_mixtures, draw_rows
from .figures import save
from .network_input import NetworkInput, prepare_image


def visualize_affinity(args) -> None:
    """Draw affinities over an image as the command line says.

    Nothing is written before everything has been computed.

    Args:
        args (argparse.Namespace): Arguments of ``tools/visualize_affinity.py``.

    Raises:
        UserError: Anything wrong with config, checkpoint, image, layers, positions or heads.
    """
    cfg = load_config(args.config, args.cfg_options)
    path, device = Path(args.image).expanduser(), choose_device(args.device)
    if not path.is_file():
        raise UserError(f'There is no image {args.image}.')
    if args.query:
        # Needs MMDetection, which backbones do without.
        from .query_figures import visualize_queries
        visualize_queries(args, cfg, path, device)
        return
    backbone, data_preprocessor = _build(cfg)
    find_layers(list_mixtures(backbone), args.layer)  # before reading files
    with as_user_error():
        load_backbone(backbone, args.checkpoint)
    mixtures = list_mixtures(backbone)
    layers = find_layers(mixtures, args.layer)
    backbone.to(device).eval()
    image = prepare_image(cfg, data_preprocessor.to(device), path)
    has_class_token = isinstance(backbone, ContainerPAM)
    positions = [parse_position(text, image, has_class_token) for text in args.position or []]
    selections = ([head if head == 'mean' else f'head {head}' for head in args.head or []]
                  + [f'channel {channel}' for channel in args.channel or []])
    results = collect_rows(backbone, image, layers, positions or default_positions(image),
                           selections or ['mean'])
    folder = check_writable_folder(args.out_dir, '--out-dir')
    source = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
    for rows in results:
        _write_rows(rows, image, path, folder, source)
    _write_mixtures(mixtures, folder / f'{path.stem}_alpha.png', source)


def _build(cfg) -> tuple[nn.Module, nn.Module]:
    """The backbone (random weights) and the data preprocessor of a config's model."""
    model, scope = cfg.model, cfg.get('default_scope', 'mmengine')
    if not isinstance(model.get('backbone'), dict):
        raise UserError('The config has no model.backbone; expected a detector, a classifier, or '
                        'model = dict(backbone=dict(...)).')
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if 'type' in model:
        if preprocessor is not None:  # MMPretrain's configs state it beside the model
            model.data_preprocessor = preprocessor
        built = build_model(model, scope)
        return built.backbone, built.data_preprocessor
    if preprocessor is None:
        raise UserError('The config has a backbone only, and no data_preprocessor that says how '
                        'images are normalised for it.')
    return build_model(model.backbone, scope), build_model(preprocessor, scope)


def _write_rows(rows: AffinityRows, image: NetworkInput, path: Path, folder: Path,
                source: str) -> None:
    mixture = rows.mixture
    suffix = rows.selection.replace(' ', '')
    selection = 'mean over all heads' if suffix == 'mean' else rows.selection
    target = folder / f'{path.stem}_{mixture.short_name}_{suffix}.png'
    height, width = rows.grid_size
    title = (f'{mixture.layer}, {selection}, grid of {height} x {width} cells of '
             f'{rows.stride} pixels\n{path.name}, {source}')
    numbers = dict(
        layer=mixture.layer, selection=selection, alpha=mixture.alpha, beta=mixture.beta,
        stride=rows.stride, cells=rows.cells,
        positions=np.array([position.place or (np.nan, np.nan) for position in rows.positions]),
        input_size=np.array(image.inputs.shape[-2:]), file_size=np.array(image.file_size),
        scale=image.geometry.scale, offset=image.geometry.offset, content=np.array(image.content),
        **rows.maps, **{f'{name}_class_token': value for name, value in rows.class_token.items()})
    save(draw_rows(rows, image, title), target, numbers)
    missing = [name for name in ('dynamic', 'static') if name not in rows.maps]
    note = f' (no {missing[0]} affinity in this block)' if missing else ''
    print(f'{mixture.layer}, {selection}{note} -> {target}, .npz', flush=True)


def _write_mixtures(mixtures: list[Mixture], target: Path, source: str) -> None:
    save(draw_mixtures(mixtures, f'alpha dynamic + beta static, {source}'), target)
    content = dict(source=source, blocks=[mixture._asdict() for mixture in mixtures])
    write_text(target.with_suffix('.json'), json.dumps(content, indent=1))
    learned = sum(mixture.learned for mixture in mixtures)
    print(f'alpha and beta of {len(mixtures)} blocks ({learned} learned) -> {target}, .json')
