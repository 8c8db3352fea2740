"""Random class names and categories: what the check accepts, MMDetection labels rightly."""
import json
import random

import pytest
from mmengine.config import Config

from mmcontainer.data_check.classes import check_classes
from mmcontainer.data_check.report import Report
from mmcontainer.data_check.sources import data_sources

pytest.importorskip('mmdet')
NAMES = ('red', 'Red', 'blue', 'green', 'grey')


def random_categories(generator):
    """Categories as people write them: mostly right, sometimes with ids or names twice."""
    names = generator.sample(NAMES, generator.randint(1, 4))
    if generator.random() < 0.2:
        names.append(generator.choice(names))
    ids = generator.sample(range(8), len(names))
    if generator.random() < 0.5:
        ids.sort()
    if generator.random() < 0.1:
        ids[0] = ids[-1]
    return [dict(id=number, name=name) for number, name in zip(ids, names)]


def write(path, categories, generator):
    """Write one object per category; its width says what it is, whatever becomes of its label."""
    annotations = [dict(id=number, image_id=1, category_id=category['id'], area=100, iscrowd=0,
                        bbox=[0, 0, 10 + NAMES.index(category['name']), 10])
                   for number, category in enumerate(categories)]
    if generator.random() < 0.1:
        annotations[0]['category_id'] = 99
    path.write_text(json.dumps(dict(images=[dict(id=1, file_name='1.jpg', width=64, height=64)],
                                    annotations=annotations, categories=categories)))


def wrong_labels(cfg):
    """Objects that have the name of another class, in the data sets that MMDetection builds."""
    from mmdet.datasets import CocoDataset
    wrong = 0
    for split in ('train', 'val'):
        arguments = cfg[f'{split}_dataloader'].dataset.to_dict()
        arguments.pop('type')
        dataset = CocoDataset(**arguments, serialize_data=False)
        names = cfg.train_dataloader.dataset.metainfo.classes
        for instance in dataset.get_data_info(0)['instances']:
            label, name = instance['bbox_label'], NAMES[int(instance['bbox'][2]) - 10]
            wrong += label >= len(names) or names[label] != name
    return wrong


def run(folder, number):
    """Make one case: (accepted, whether it ought to be, wrong labels without check, with it)."""
    generator = random.Random(number)
    train = random_categories(generator)
    val = train if generator.random() < 0.6 else random_categories(generator)
    write(folder / 'train.json', train, generator)
    write(folder / 'val.json', val, generator)
    names = list(dict.fromkeys(category['name'] for category in train))
    classes = generator.sample(names, generator.randint(1, len(names)))
    if generator.random() < 0.1:
        classes[0] = generator.choice(NAMES)
    cfg = Config(dict(default_scope='mmdet', **{f'{split}_dataloader': dict(dataset=dict(
        type='CocoDataset', ann_file=str(folder / f'{split}.json'), data_prefix=dict(img=''),
        metainfo=dict(classes=tuple(classes)), pipeline=[])) for split in ('train', 'val')}))
    before, sound, report = wrong_labels(cfg), is_sound(folder, classes), Report()
    check_classes(cfg, data_sources(cfg, ('train', 'val')), report)
    return not report.problems, sound, before, 0 if report.problems else wrong_labels(cfg)


def is_sound(folder, classes):
    """Files agree: each id and class once, all objects of a category, labels the same."""
    orders = set()
    for split in ('train', 'val'):
        content = json.loads((folder / f'{split}.json').read_text())
        ids = [category['id'] for category in content['categories']]
        names = [category['name'] for category in content['categories']]
        if len(set(ids)) < len(ids) or any(names.count(name) != 1 for name in classes) or not {
                annotation['category_id'] for annotation in content['annotations']} <= set(ids):
            return False
        orders.add(tuple(name for name in names if name in classes))
    return len(orders) == 1 and len(set(classes)) == len(classes)


@pytest.mark.filterwarnings('ignore')
def test_accepted_names_are_right(tmp_path, capsys):
    cases = [run(tmp_path, number) for number in range(300)]
    capsys.readouterr()  # pycocotools announces every file
    accepted = [case for case in cases if case[0]]
    assert 60 < len(accepted) < 240
    assert all(ok == sound for ok, sound, *_ in cases)
    assert not any(after for *_, after in accepted)
    assert sum(before > 0 for *_, before, _ in cases) > 60  # what MMDetection alone makes of them
    assert sum(before > 0 for *_, before, _ in accepted) > 10  # and the repair mends
