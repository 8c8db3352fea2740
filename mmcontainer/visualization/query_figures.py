"""``tools/visualize_affinity.py --query``: figures of SMCA-DETR's queries, and their numbers."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..api.detector import load_detector
from ..errors import UserError
from .figures import draw_cells, draw_picture, new_grid, save
from .network_input import NetworkInput, prepare_image
from .query_attention import QueryAttention, check_choice, collect_layers

_MAPS = {'before': 'attention without the Gaussian', 'gaussian': 'the Gaussian',
         'after': 'attention'}


def draw_queries(groups: Sequence[QueryAttention], image: NetworkInput, classes: Sequence[str],
                 title: str = '') -> Figure:
    """Draw one line of panels per query: its box and points, and its attention in three steps.

    With several groups of keys there is a line for each of them, which says how much weight the
    query gives it; its attention is that in the group, before it is multiplied with the weight.

    Args:
        groups (Sequence[QueryAttention]): What to draw: the same queries in every group.
        image (NetworkInput): The image that they belong to.
        classes (Sequence[str]): Names of the classes.
        title (str): Text above the figure.
    """
    height, width = image.inputs.shape[-2:]
    first = groups[0]
    lines = [(rows, line) for line in range(len(first.queries)) for rows in groups]
    figure, grid = new_grid(len(lines), 4, (height, width), title, least_width=2.6)
    grey = image.picture.mean(axis=2)
    for panels, (rows, line) in zip(grid, lines):
        heading = (f'query {rows.queries[line]}: {classes[rows.labels[line]]} '
                   f'{rows.scores[line]:.2f}')
        if rows.group:
            heading += f'\n{rows.group}: weight {rows.weights[line]:.2f}'
        draw_picture(panels[0], image.picture)
        _draw_prediction(panels[0], rows, line)
        panels[0].set(xlim=(0, width), ylim=(height, 0))  # points may lie outside
        panels[0].set_title(heading, fontsize=9)
        for axes, (name, heading) in zip(panels[1:], _MAPS.items()):
            draw_picture(axes, grey)
            draw_cells(axes, getattr(rows, name)[line], rows.cell_size, vmin=0)
            axes.plot(*rows.points[line].T, '.', color='white', markeredgecolor='black')
            axes.set(xlim=(0, width), ylim=(height, 0))
            axes.set_title(heading, fontsize=9)
    return figure


def numbers(groups: Sequence[QueryAttention]) -> dict[str, Any]:
    """What the picture shows, by the names of :class:`QueryAttention`.

    With several groups, those that differ between them end in _0, _1 and so on, in their order.
    """
    if len(groups) == 1:
        return groups[0]._asdict()
    own = ('group', 'weights', 'points', 'cell_size', *_MAPS)
    common = {key: value for key, value in groups[0]._asdict().items() if key not in own}
    return common | {f'{key}_{i}': getattr(rows, key)
                     for i, rows in enumerate(groups) for key in own}


def _draw_prediction(axes, rows: QueryAttention, line: int) -> None:
    x1, y1, x2, y2 = rows.boxes[line]
    for colour, linewidth in (('white', 2.5), ('#d62728', 1.3)):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour,
                                 linewidth=linewidth))
    axes.plot(*rows.points[line].T, '.', color='white', markeredgecolor='black',
              label='heads')
    axes.plot(*rows.references[line], '*', color='#ffd23f', markeredgecolor='black', markersize=11,
              label='reference')
    axes.legend(fontsize=7, loc='lower right')


def visualize_queries(args, cfg, path: Path, device: str) -> None:
    """Draw queries as the command line says; nothing is written before all is computed.

    Args:
        args (argparse.Namespace): Arguments of ``tools/visualize_affinity.py``.
        cfg (Config): Of an SMCA-DETR; its default scope must have been set.
        path (Path): Image file.
        device (str): Where to run the model.

    Raises:
        UserError: No SMCA-DETR, a checkpoint that does not fit, or numbers out of range.
    """
    if args.channel or args.position:
        raise UserError('--query draws attention of queries, which have their own places; leave '
                        'out --position and --channel.')
    if len(args.layer or []) > 1 or not all(name.isdigit() for name in args.layer or []):
        raise UserError('With --query, --layer is the number of one decoder layer.')
    queries = None if args.query == ['best'] else args.query
    if queries and not all(text.isdigit() for text in queries):
        raise UserError("--query takes numbers of queries, or 'best' alone.")
    queries = None if queries is None else [int(text) for text in queries]
    model = load_detector(cfg, args.checkpoint, device)
    layer = int(args.layer[0]) if args.layer else None
    heads = args.head or ['mean']
    for head in heads:
        layer = check_choice(model, layer, head, queries)
    image = prepare_image(cfg, model.data_preprocessor, path)
    results = [(head, collect_layers(model, image, [layer], head, queries)) for head in heads]
    folder = Path(args.out_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    source = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
    for head, groups in results:
        rows = groups[0]
        suffix = head if head == 'mean' else f'head{head}'
        target = folder / f'{path.stem}_queries_{layer}_{suffix}.png'
        cells = ', '.join('{1} x {2}'.format(*one.before.shape) for one in groups)
        title = (f'decoder layer {layer}, {rows.head}, {cells} cells\n'
                 f'{path.name}, {source}')
        save(draw_queries(groups, image, model.dataset_meta['classes'], title), target,
             numbers(groups))
        print(f'queries {", ".join(map(str, rows.queries))}, {rows.head} -> {target}, .npz',
              flush=True)
