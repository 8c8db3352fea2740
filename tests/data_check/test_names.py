"""Class names of a config against files, each other, evaluators and checkpoints."""
import json
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmcontainer.data_check.annotations import Category
from mmcontainer.data_check.classes import check_checkpoint_classes, check_classes
from mmcontainer.data_check.names import check_voc_names
from mmcontainer.data_check.report import Report
from mmcontainer.data_check.sources import Source, data_sources
from mmcontainer.errors import UserError


def categories(*names, start=1):
    return [dict(id=number, name=name) for number, name in enumerate(names, start)]


@pytest.fixture
def write_json(tmp_path):
    """Return a function that writes an annotation file with one object of each category."""

    def write(name, items, objects=None):
        ids = [item['id'] for item in items] if objects is None else objects
        annotations = [dict(id=number, image_id=1, category_id=category, bbox=[5, 5, 20, 20],
                            area=400, iscrowd=0) for number, category in enumerate(ids, 1)]
        (tmp_path / name).write_text(json.dumps(dict(
            images=[dict(id=1, file_name='1.jpg', width=64, height=64)], annotations=annotations,
            categories=items)))
        return tmp_path / name

    return write


def config(data_root, train='train.json', val='val.json', classes=('red', 'blue'), num_classes=None,
           **changes):
    """A config as a user would write it, with what the checks look at."""
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))

    def dataset(ann_file):
        return dict(type='CocoDataset', data_root=f'{data_root}/', ann_file=ann_file,
                    data_prefix=dict(img=''), **metainfo)

    number = num_classes or (len(classes) if isinstance(classes, (list, tuple)) else 80)
    return Config({**dict(
        default_scope='mmdet',
        model=dict(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=number,
                                                    in_channels=8)),
        train_dataloader=dict(dataset=dataset(train)),
        val_dataloader=dict(dataset=dataset(val)),
        val_evaluator=dict(type='CocoMetric', ann_file=f'{data_root}/{val}')), **changes})


def check(cfg, splits=('train', 'val')):
    report = Report()
    check_classes(cfg, data_sources(cfg, splits), report)
    return report


def the_problem(cfg, splits=('train', 'val')):
    """The only problem of a config."""
    problems = check(cfg, splits).problems
    assert len(problems) == 1, problems
    return problems[0]


@pytest.fixture
def red_blue(tmp_path, write_json):
    """A folder with train.json and val.json, whose categories are red and blue."""
    for name in ('train.json', 'val.json'):
        write_json(name, categories('red', 'blue'))
    return tmp_path


def test_names_that_agree(red_blue):
    report = check(config(red_blue))
    assert not report.problems and not report.notes


def test_another_order_is_repaired(red_blue):
    cfg = config(red_blue, classes=('blue', 'red'))
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.metainfo.palette = [(0, 0, 255), (255, 0, 0)]
    report = check(cfg)
    assert not report.problems
    assert len(report.notes) == 1 and "'blue', 'red'" in report.notes[0]
    for split in ('train', 'val'):
        metainfo = cfg[f'{split}_dataloader'].dataset.metainfo
        assert tuple(metainfo.classes) == ('red', 'blue')
        assert metainfo.palette == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize(('classes', 'hint'), [
    (('red', 'bleu'), "'bleu': did you mean 'blue'?"),
    (('Red', 'blue'), "'Red': did you mean 'red'?"),
    (('red ', 'blue'), "'red ': did you mean 'red'?"),
])
def test_misspelt_names(red_blue, classes, hint):
    problem = the_problem(config(red_blue, classes=classes))
    assert hint in problem and 'train.json' in problem and 'val.json' in problem
    assert "metainfo=dict(classes=('red', 'blue'))" in problem


def test_a_name_that_the_file_lacks(red_blue):
    problem = check(config(red_blue, classes=('red', 'green', 'blue'))).problems[0]
    assert "the file lacks 'green'" in problem and '--names' in problem


def test_forgotten_metainfo(red_blue):
    report = check(config(red_blue, classes=None))
    assert 'which CocoDataset expects, because the config names no classes' in report.problems[0]
    assert "metainfo=dict(classes=('red', 'blue'))" in report.problems[0]
    assert 'model.bbox_head.num_classes=2' in report.problems[-1]


def test_metainfo_of_older_versions(red_blue):
    cfg = config(red_blue, classes=None)
    cfg.train_dataloader.dataset.metainfo = dict(CLASSES=('red', 'blue'))
    assert 'metainfo has CLASSES, but the key is classes' in check(cfg).problems[0]


def test_coco_needs_no_metainfo(tmp_path, write_json):
    from mmdet.datasets import CocoDataset
    names = CocoDataset.METAINFO['classes']
    for name in ('train.json', 'val.json'):
        write_json(name, categories(*names))
    report = check(config(tmp_path, classes=None))
    assert not report.problems and not report.notes


def test_a_subset_is_legal_and_counted(red_blue, write_json):
    write_json('train.json', categories('red', 'green', 'blue'), objects=[1, 2, 2, 2, 3])
    report = check(config(red_blue, classes=('red', 'blue')))
    assert not report.problems
    assert len(report.notes) == 1 and "3 of 'green'" in report.notes[0]


@pytest.mark.parametrize('items', [
    [dict(id=0, name='cells', supercategory='none'), dict(id=1, name='cells')],
    [dict(id=1, name='cells'), dict(id=5, name='cells')]])
def test_one_name_twice_in_the_file(tmp_path, write_json, items):
    path = write_json('train.json', items, objects=[items[-1]['id']] * 7)
    problem = the_problem(config(tmp_path, classes=('cells', )), ['train'])
    assert f'{items[-1]["id"]} (7 objects)' in problem and str(items[0]['id']) in problem
    assert f'mmcontainer renumber {path}' in problem


def test_one_id_twice(red_blue, write_json):
    write_json('train.json', [dict(id=1, name='red'), dict(id=1, name='blue')])
    assert 'ids must be unique' in the_problem(config(red_blue), ['train'])


def test_objects_without_a_category(red_blue, write_json):
    write_json('train.json', categories('red', 'blue'), objects=[0, 0, 1])
    assert '0 (2 objects)' in the_problem(config(red_blue), ['train'])


@pytest.mark.parametrize(('classes', 'expected'), [
    ((), 'empty'), ((1, 2), 'a tuple of names is expected'),
    (('red', 'red'), "names 'red' more than once")])
def test_malformed_classes(red_blue, classes, expected):
    problem = the_problem(config(red_blue, classes=classes, num_classes=2))
    assert expected in problem and "metainfo=dict(classes=('red', 'blue'))" in problem


def test_a_string_in_place_of_a_tuple(red_blue):
    problem = the_problem(config(red_blue, classes='red', num_classes=1))
    assert "classes=('red', )" in problem and "metainfo=dict(classes=('red',))" in problem


def test_classes_from_a_file(red_blue):
    (red_blue / 'names.txt').write_text('blue\nred\n')
    cfg = config(red_blue, classes=str(red_blue / 'names.txt'), num_classes=2)
    assert not check(cfg).problems
    assert tuple(cfg.val_dataloader.dataset.metainfo.classes) == ('red', 'blue')


def test_files_in_different_order(red_blue, write_json):
    path = write_json('val.json', categories('blue', 'red'))
    problem = the_problem(config(red_blue))
    assert "label 0 is 'red' there and 'blue' here" in problem
    assert f'mmcontainer renumber {path} NEW_FILE --names "red" "blue"' in problem


def test_the_order_of_ids_does_not_matter(red_blue, write_json):
    write_json('val.json', [dict(id=7, name='red'), dict(id=3, name='blue')])
    assert not check(config(red_blue)).problems


@pytest.mark.parametrize('key', ['classwise', 'sort_categories'])
def test_ids_that_do_not_ascend(red_blue, write_json, key):
    path = write_json('val.json', [dict(id=7, name='red'), dict(id=3, name='blue')])
    cfg = config(red_blue)
    cfg.val_evaluator[key] = True
    problem = the_problem(cfg)
    assert f'{key}=True' in problem and f'mmcontainer renumber {path}' in problem


def test_metainfo_that_differs_between_splits(red_blue):
    cfg = config(red_blue)
    cfg.val_dataloader.dataset.metainfo.classes = ('blue', )
    problem = the_problem(cfg)
    assert 'Give all data sets the same metainfo' in problem


def test_wrappers(red_blue, write_json):
    write_json('second.json', categories('blue', 'red'))
    cfg = config(red_blue)
    first = cfg.train_dataloader.dataset
    second = {**first, 'ann_file': 'second.json'}
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', pipeline=[], dataset=dict(
            type='RepeatDataset', times=2, dataset=dict(
                type='ClassBalancedDataset', oversample_thr=0.1, dataset=dict(
                    type='ConcatDataset', datasets=[first, second]))))
    problem = the_problem(cfg)
    assert 'second.json' in problem and "label 0 is 'red' there and 'blue' here" in problem
    write_json('second.json', categories('red', 'blue'))
    assert not check(cfg).problems


def test_evaluator_with_another_file(red_blue, write_json):
    write_json('test.json', categories('red', 'blue'), objects=[1])
    cfg = config(red_blue)
    cfg.val_evaluator.ann_file = f'{red_blue}/test.json'
    problem = the_problem(cfg)
    assert 'test.json, but val_dataloader reads' in problem
    assert 'val.json' in problem
    cfg.val_evaluator.ann_file = f'{red_blue}/../{red_blue.name}/val.json'
    assert not check(cfg).problems
    del cfg.val_evaluator['ann_file']
    assert not check(cfg).problems


def test_evaluators_of_concatenated_data(red_blue, write_json):
    write_json('second.json', categories('red', 'blue'), objects=[1])
    cfg = config(red_blue)
    first = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[first, {**first, 'ann_file': 'second.json'}])
    assert 'MultiDatasetsEvaluator' in the_problem(cfg)
    metrics = [dict(type='CocoMetric', ann_file=f'{red_blue}/{name}')
               for name in ('val.json', 'second.json')]
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics,
                             dataset_prefixes=['a', 'b'])
    assert not check(cfg).problems
    cfg.val_evaluator.metrics = metrics[::-1]
    assert len(check(cfg).problems) == 2


def test_checkpoints():
    content = dict(meta=dict(dataset_meta=dict(classes=['red', 'blue'])))
    for accepted in (('red', 'blue'), None):
        check_checkpoint_classes(content, accepted, 'epoch_1.pth')
    for meta in (None, {}, [], dict(dataset_meta=None), dict(dataset_meta='x'), dict(epoch=1)):
        check_checkpoint_classes(dict(meta=meta), ('red', 'blue'), 'epoch_1.pth')
    with pytest.raises(UserError, match="label 0 is 'red' there and 'blue' here") as error:
        check_checkpoint_classes(content, ('blue', 'red'), 'epoch_1.pth')
    assert '--names "red" "blue"' in str(error.value)
    with pytest.raises(UserError, match='epoch_1.pth was trained on other classes'):
        check_checkpoint_classes(dict(meta=dict(CLASSES=('cat', ))), ('dog', ), 'epoch_1.pth')


def test_folders_of_classes(tmp_path):
    for split, names in dict(train='abc', val='abd').items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), with_label=True)
    cfg = Config(dict(
        default_scope='mmpretrain',
        model=dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=10)),
        train_dataloader=dict(dataset=dict(dataset, data_prefix='train')),
        val_dataloader=dict(dataset=dict(dataset, data_prefix='val'))))
    problems = check(cfg).problems
    assert "label 2 is 'c' there and 'd' here" in problems[0]
    assert 'model.head.num_classes=3' in problems[1]


def voc_source(classes):
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    from mmdet.datasets import VOCDataset
    return Source('train', 'train', dict(type='VOCDataset', **metainfo), 'voc', None,
                       classes or VOCDataset.METAINFO['classes'])


def voc_files():
    return SimpleNamespace(categories=(Category(1, 'red'), Category(2, 'blue')),
                           instances={1: 3, 2: 4})


@pytest.mark.parametrize(('classes', 'hint'), [
    (('Red', 'blue'), "'Red': did you mean 'red'?"),
    (('green', ), "objects of 'red', 'blue'"),
    (None, 'the names of VOCDataset are')])
def test_names_that_no_xml_file_has(classes, hint):
    found = voc_files()
    report = Report()
    check_voc_names(voc_source(classes), found, report)
    assert len(report.problems) == 1 and hint in report.problems[0]
    assert "metainfo=dict(classes=('red', 'blue'))" in report.problems[0]


def test_labels_of_voc_follow_the_config():
    found = voc_files()
    source, report = voc_source(('blue', 'red', 'rare')), Report()
    check_voc_names(source, found, report)
    assert not report.problems and source.labels == ('blue', 'red', 'rare')
    check_voc_names(voc_source(('blue', )), found, report)
    assert not report.problems and "3 of 'red'" in report.notes[0]
