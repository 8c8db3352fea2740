"""Write the tables of published numbers into README.md, docs/ and configs/metafile.yml.

    python -m benchmarks.documents            # names the files that are outdated
    python -m benchmarks.documents --write    # writes them anew

A table stands between two comments, of which the first names it; all else in a file stays. What the
tables hold comes from ``rows.yaml`` and ``tables.yaml``.
"""
import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmcontainer.errors import UserError
from mmcontainer.fileio import write_text
from mmcontainer.paper.rows import Row, load_rows

ROOT = Path(__file__).resolve().parents[1]
_COTNETS = ('cotnet_50', 'cotnet_101', 'cotnext_50', 'cotnext_101', 'se_cotnetd_50',
            'se_cotnetd_101')
_COTNET_DETECTORS = ('faster_rcnn', 'cascade_rcnn', 'mask_rcnn', 'cascade_mask_rcnn')
# In README.md: a row of each kind. The schedule is not part of a row's name.
_CHOSEN = {'retinanet_container_light': ' 1x', 'mask_rcnn_container_light': ' 1x',
           'faster_rcnn_cotnet_50': ' 1x', 'cascade_mask_rcnn_cotnext_101': ' 1x',
           'smca_detr_container_light': ', 50 epochs', 'retinanet_coatnet_0': ' 1x'}
# {metric of tools/test.py: (task, name of the metric)}, as OpenMMLab's model indices have them.
_INDEXED = {'coco/bbox_mAP': ('Object Detection', 'box AP'),
            'coco/segm_mAP': ('Instance Segmentation', 'mask AP'),
            'accuracy/top1': ('Image Classification', 'Top 1 Accuracy'),
            'accuracy/top5': ('Image Classification', 'Top 5 Accuracy'),
            'knn/top1': ('Image Classification', '10-NN Top 1 Accuracy')}


def _size(params, flops) -> str:
    parts = [f'{params} M' if params is not None else '', f'{flops} G' if flops is not None else '']
    return ', '.join(filter(None, parts))


def _stated(row: Row) -> str:
    return _size(row.stated_size.get('params'), row.stated_size.get('flops')) or '-'


def _measured(row: Row, form: str = '.1f') -> str:
    """Parameters, and multiply-adds in this format."""
    params, flops = row.measured
    return _size(f'{params:.1f}', f'{flops:{form}}')


def _link(row: Row, folder: str, text: str = 'config') -> str:
    return f'[{text}]({folder}configs/{row.config})'


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [f'| {" | ".join(cells)} |' for cells in (header, *rows)]
    return [lines[0], f'|{"---|" * len(header)}', *lines[1:]]


def chosen_models() -> list[str]:
    """Table of README.md: a few models of every family."""
    rows = load_rows()
    return markdown(
        ['detector', 'backbone', 'AP box / mask (paper)', 'params, FLOPs (measured)', 'config'],
        [[rows[name].task + schedule, rows[name].model, rows[name].published_text,
          _measured(rows[name], 'g'), _link(rows[name], '')]
         for name, schedule in _CHOSEN.items()])


def container_detectors() -> list[str]:
    """Table 4 of the Container paper, with the models of the released weights."""
    rows = load_rows()
    backbones = {'container_light': "Container-Light, paper's size",
                 'container_light_released': 'Container-Light, released weights',
                 'r50': 'ResNet-50'}
    table = []
    for detector in ('retinanet', 'mask_rcnn'):
        for key, backbone in backbones.items():
            row = rows[f'{detector}_{key}']
            table.append([row.task, backbone, row.published_text, f'{_stated(row)} {row.mark}'
                          .strip(), _measured(row), _link(row, '../'),
                          'not here' if key == 'r50' else 'not yet'])
    return markdown(['detector, 1x', 'backbone', 'paper: AP box / mask', 'paper: params, FLOPs',
                     'measured here', 'config', 'trained'], table)


def cotnet_models() -> list[str]:
    """Classifiers and detectors of CoTNet."""
    rows = load_rows()
    table = []
    for key in (*_COTNETS, 'se_cotnetd_152'):
        classifier = rows[f'imagenet_{key}']
        detectors = [rows.get(f'{detector}_{key}') for detector in _COTNET_DETECTORS]
        stated = f'{classifier.published_text}, {_stated(classifier)} {classifier.mark}'.strip()
        table.append([classifier.model, stated, _measured(classifier, '.2f'),
                      *(_link(row, '../', row.published_text) if row else '-'
                        for row in detectors)])
    titles = [rows[f'{detector}_{_COTNETS[0]}'].task for detector in _COTNET_DETECTORS]
    return markdown(['backbone', 'paper: top-1, params, FLOPs', 'measured: params, FLOPs',
                     *titles], table)


def detr_models() -> list[str]:
    """Table 5 of the Container paper."""
    rows = load_rows()
    table = []
    for detector in ('detr', 'deformable_detr', 'smca_detr'):
        pair = [rows[f'{detector}_{backbone}'] for backbone in ('r50', 'container_light')]
        table.append([pair[0].task, *(_link(row, '../', row.published_text) for row in pair),
                      '; '.join(_measured(row, 'g') for row in pair)])
    return markdown(['detector', 'ResNet-50', 'Container-Light', 'params, FLOPs at 800 x 1280'],
                    table)


def container_family() -> list[str]:
    """Classifiers of the Container family, Tables 1 and 2 among them."""
    table = []
    for row in load_rows().values():
        if not row.arch:
            continue
        kind = {'light': ' (released weights)', 'base': ' (Container)'}.get(row.arch, '')
        stated = 'not stated' if not row.stated_size else _stated(row)
        table.append([f'`{row.arch}`{kind}', *row.affinities, row.published_text,
                      f'{stated} {row.mark}'.strip(), _measured(row, '.2f')])
    return markdown(['arch', 'dynamic affinity', 'static affinity', 'paper: top-1',
                     'paper: params, FLOPs', 'measured: params, FLOPs'], table)


def imagenet_classifiers() -> list[str]:
    """All configs of classifiers on ImageNet."""
    return markdown(
        ['config', 'model', 'published in', 'top-1', 'params'],
        [[_link(row, '../', f'`{Path(row.config).stem}`'), row.model,
          f'{row.paper}, {row.table}' if row.paper else f'nowhere: {row.note}',
          row.published_text, _size(row.stated_size.get('params'), None) or '-']
         for row in load_rows().values() if row.config and row.config.startswith('imagenet/')])


def segmenters() -> list[str]:
    """All configs of segmenters."""
    return markdown(
        ['config', 'model', 'backbone', 'images of an iteration', 'recipe'],
        [[_link(row, '../', f'`{row.config.removesuffix(".py")}`'), row.task, row.model,
          f'{row.gpus} GPUs x {row.images}', row.note.partition("'s recipe")[0]]
         for row in load_rows().values() if row.data == 'ADE20K'])


def cotnet_sizes() -> list[str]:
    """Sizes of CoTNet's detectors."""
    rows = load_rows()
    pairs = [[rows[f'{detector}_{key}'] for detector in _COTNET_DETECTORS] for key in _COTNETS]
    return markdown(
        ['backbone', *(row.task for row in pairs[0])],
        [[row[0].model, *(f'{one.measured[0]:.1f}, {one.measured[1]:g}' for one in row)]
         for row in pairs])


def coatnet_models() -> list[str]:
    """CoAtNet's classifiers."""
    rows = [row for row in load_rows().values() if row.paper == 'CoAtNet']
    return markdown(
        ['arch', 'top-1, params, FLOPs (paper, 224 x 224)', 'params, FLOPs measured'],
        [[f'`{row.model.lower()}`', ', '.join([row.published_text, _stated(row)]),
          _size(*(f'{number:.2f}' for number in row.measured))] for row in rows])


def dino_models() -> list[str]:
    """Table 6 of the Container paper."""
    epochs = (20, 40, 60, 80, 100)
    return markdown(
        ['config', *(f'{epoch} epochs' for epoch in epochs)],
        [[_link(row, '../', row.model), *(
            f'{row.published["knn/top1" if epoch == epochs[-1] else f"knn/top1_{epoch}e"]:.1f}'
            for epoch in epochs)]
         for row in load_rows().values() if row.table == 'Table 6'])


def metafile_models() -> list[str]:
    """``Models`` of the model index: every config, with what the papers report of it."""
    lines = []
    for row in sorted((row for row in load_rows().values() if row.config),
                      key=lambda row: row.config):
        folder, _, file = row.config.removesuffix('.py').partition('/')
        fields = [f'Name: {file if folder == "detr" else f"{folder}_{file}"}',
                  f'In Collection: {row.collection}', f'Config: configs/{row.config}']
        if row.published:
            fields.append(f'Results: [{", ".join(_results(row))}]')
        lines.append(f'  - {{{", ".join(fields)}}}')
    return lines


def _results(row: Row) -> Iterable[str]:
    """Entries of ``Results``, one per task, marked as what the paper states."""
    tasks: dict[str, list[str]] = {}
    for metric, value in row.published.items():
        if metric in _INDEXED:
            task, name = _INDEXED[metric]
            tasks.setdefault(task, []).append(f'{name}: {value}')
    for task, metrics in tasks.items():
        yield (f'{{Task: {task}, Dataset: {row.data}, Metrics: {{{", ".join(metrics)}}}, '
               f"Published: '{row.paper}, {row.table}', Measured Here: false}}")


# {file: {name of a table: what makes it}}
DOCUMENTS: dict[str, dict[str, Callable[[], list[str]]]] = {
    'README.md': {'models': chosen_models},
    'docs/zoo.md': {'Container-Light': container_detectors, 'CoTNet': cotnet_models,
                    'DETR': detr_models},
    'docs/detr.md': {'DETR': detr_models},
    'docs/imagenet.md': {'classifiers': imagenet_classifiers},
    'docs/segmentation.md': {'segmenters': segmenters},
    'docs/cotnet.md': {'detectors': cotnet_sizes},
    'docs/coatnet.md': {'CoAtNet': coatnet_models},
    'docs/dino.md': {'DINO': dino_models},
    'docs/container_family.md': {'Container family': container_family},
    'configs/metafile.yml': {'models': metafile_models},
}


def fill(text: str, tables: dict[str, Callable[[], list[str]]], is_yaml: bool = False) -> str:
    """Put tables between their comments.

    Args:
        text (str): Content of a file.
        tables (dict): {name: function that makes the lines of the table}.
        is_yaml (bool): The comments are YAML's instead of Markdown's.

    Raises:
        UserError: The comments of a table are missing.
    """
    for name, make in tables.items():
        first, last = f'<!-- table: {name} (benchmarks.documents) -->', '<!-- end -->'
        if is_yaml:
            first, last = f'# {first[5:-4]}', '# end'
        begin = text.find(f'{first}\n')
        end = text.find(f'{last}\n', begin)
        if begin < 0 or end < 0:
            raise UserError(f'The lines {first!r} and {last!r}, between which the table goes, are '
                            'expected, and not there.')
        text = '\n'.join([text[:begin] + first, *make(), text[end:]])
    return text


def outdated() -> dict[Path, str]:
    """Files that are not as they would be written: {file: the content it should have}."""
    found = {}
    for name, tables in DOCUMENTS.items():
        path = ROOT / name
        old = path.read_text(encoding='utf-8')
        new = fill(old, tables, is_yaml=path.suffix == '.yml')
        if new != old:
            found[path] = new
    return found


def main() -> int:
    """Command line; the exit code is 1 if files are outdated and not written."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.documents', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--write', action='store_true', help='write the files that are outdated')
    args = parser.parse_args()
    found = outdated()
    for path, text in found.items():
        if args.write:
            write_text(path, text)
        print(f'{path.relative_to(ROOT)}: {"written" if args.write else "outdated"}')
    return 1 if found and not args.write else 0


if __name__ == '__main__':
    from mmcontainer.cli.tool import run_tool
    run_tool(main)
