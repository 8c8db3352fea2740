"""The rows to reproduce: complete, equal to the published tables, and what the documents show."""
import subprocess
import sys

import pytest
from mmengine.config import Config

from benchmarks import documents
from mmcontainer.config_nodes import iter_dicts
from mmcontainer.errors import UserError
from mmcontainer.paper import load_tables
from mmcontainer.paper.rows import load_rows, percent

ROWS = load_rows()
WITH_CONFIG = [row for row in ROWS.values() if row.config]


def _names(row):
    return row.name


def test_every_config_is_a_row_and_every_row_has_a_config_or_a_reason(repo_root):
    configs = [path for path in (repo_root / 'configs').glob('[!_]*/*.py')
               if 'demo' not in path.stem]
    assert sorted(repo_root / 'configs' / row.config for row in WITH_CONFIG) == sorted(configs)
    assert all(bool(row.config) != bool(row.reason) for row in ROWS.values())
    assert all(row.paper or row.note for row in ROWS.values()), 'what is an extra config for?'


@pytest.mark.parametrize('table, number', [
    ('Table 1', 4), ('Table 2', 10), ('Table 3', 8), ('Table 4', 7), ('Table 5', 6),
    ('Table 6', 2)])
def test_container_tables_are_covered(table, number):
    """Of Tables 1 and 4 only what ``tables.yaml`` has, and not every row quoted from elsewhere."""
    word, digit = table.split()
    found = [row for row in ROWS.values() if row.paper == 'Container'
             and row.table.startswith(word) and digit in row.table]
    assert len(found) == number and all(row.published for row in found)


def test_cotnet_and_coatnet_are_covered():
    tables = load_tables()
    for detector, models in tables['cotnet_coco'].items():
        for name, numbers in models.items():
            row = ROWS[f'{detector}_{name}']
            assert list(row.published.values()) == numbers and row.config
            assert list(row.published)[3] == (
                'coco/segm_mAP' if 'mask' in detector else 'coco/bbox_mAP_s')
    for name, entry in tables['classification'].items():
        if name.startswith(('cot', 'se_', 'coat')):
            row = ROWS[f'imagenet_{name}']
            assert row.published.get('accuracy/top1') == entry.get('top1')
            assert row.published.get('accuracy/top5') == entry.get('top5')


def test_numbers_of_container():
    """Some of every table, as the paper has them."""
    def published(name, *metrics):
        return [ROWS[name].published[metric] for metric in metrics]

    assert published('retinanet_container_light', 'coco/bbox_mAP', 'coco/bbox_mAP_l') == [
        43.8, 58.5]
    assert published('mask_rcnn_container_light', 'coco/bbox_mAP', 'coco/segm_mAP',
                     'coco/segm_mAP_75') == [45.1, 41.3, 44.5]
    assert published('imagenet_container_light_10pct', 'accuracy/top1') == [61.8]
    assert published('imagenet_deit_s', 'accuracy/top1') == [79.9]
    assert published('dino_container_light', 'knn/top1', 'knn/top1_20e') == [71.5, 58.0]
    assert [published(f'{detector}_{backbone}', 'coco/bbox_mAP')[0]
            for detector in ('detr', 'deformable_detr', 'smca_detr')
            for backbone in ('r50', 'container_light')] == [32.3, 38.9, 39.3, 43.0, 41.0, 44.2]
    assert percent('coco/bbox_mAP', 0.438) == pytest.approx(43.8)
    assert percent('accuracy/top1', 82.0) == 82.0


@pytest.mark.parametrize('row', WITH_CONFIG, ids=_names)
def test_row_is_what_its_config_says(repo_root, row):
    if row.data == 'ADE20K':
        pytest.importorskip('mmseg', reason='needs MMSegmentation: make test-seg')
    cfg = Config.fromfile(repo_root / 'configs' / row.config)
    assert cfg.train_dataloader.batch_size == row.images
    assert cfg.get('optim_wrapper', {}).get('accumulative_counts', 1) == 1
    if 'auto_scale_lr' in cfg:
        assert cfg.auto_scale_lr.base_batch_size == row.batch
    files = {node['init_cfg']['checkpoint'] for _, node in iter_dicts(cfg.model, 'model')
             if isinstance(node.get('init_cfg'), dict) and 'checkpoint' in node['init_cfg']}
    weights = row.weights and (row.weights if '://' in row.weights
                               else f'checkpoints/{row.weights}.pth')
    assert files == ({weights} if weights else set())
    assert row.config.startswith(('imagenet/', 'imagenette/')) == (row.task == 'classifier')
    share = {'10 %': '_10pct', '50 %': '_50pct', '80 %': '_80pct',
             'Imag': '_imagenette.py' if row.data == 'Imagenette' else '_in1k.py'}.get(row.data[:4])
    assert row.task != 'classifier' or share in row.config


def test_documents_are_up_to_date(repo_root):
    done = subprocess.run([sys.executable, '-m', 'benchmarks.documents'], cwd=repo_root, text=True,
                          stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, ''), 'run python -m benchmarks.documents --write'


def test_a_table_is_replaced_and_the_rest_stays():
    text = ('before\n<!-- table: x (benchmarks.documents) -->\nold\n<!-- end -->\nafter\n')
    assert documents.fill(text, {'x': lambda: ['new', 'lines']}) == text.replace(
        'old', 'new\nlines')
    with pytest.raises(UserError, match='table: y'):
        documents.fill(text, {'y': list})
