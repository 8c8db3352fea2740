"""tools/renumber_categories.py."""
import json

import pytest

from mmcontainer.data_check.repair import renumber, renumber_file
from mmcontainer.errors import UserError


def content(categories, category_ids):
    return dict(
        info='kept', images=[], categories=[dict(id=i, name=name, supercategory='all')
                                            for i, name in categories],
        annotations=[dict(id=n, category_id=i) for n, i in enumerate(category_ids)])


def names_of_objects(content):
    names = {category['id']: category['name'] for category in content['categories']}
    return [names[annotation['category_id']] for annotation in content['annotations']]


@pytest.mark.parametrize('names', [None, ['blue', 'red'], ['green', 'red', 'blue']])
def test_objects_keep_their_names(names):
    before = content([(7, 'red'), (3, 'blue'), (5, 'unused')], [7, 3, 3])
    after = renumber(before, names)
    order = names or ['red', 'blue', 'unused']
    assert [category['name'] for category in after['categories']] == order
    assert [category['id'] for category in after['categories']] == list(range(1, len(order) + 1))
    assert names_of_objects(after) == names_of_objects(before) == ['red', 'blue', 'blue']
    assert after['info'] == 'kept' and before['annotations'][0]['category_id'] == 7


def test_categories_of_one_name_become_one():
    after = renumber(content([(0, 'cells'), (1, 'cells')], [1, 0]))
    assert after['categories'] == [dict(id=1, name='cells', supercategory='all')]
    assert names_of_objects(after) == ['cells', 'cells']


@pytest.mark.parametrize(('ids', 'names', 'message'), [
    ([1, 9], None, '1 objects have a category_id without a category: 9'),
    ([1, 2], ['red'], "leaves out categories that have objects: 'blue'"),
    ([1], ['red', 'red'], 'the same name twice')])
def test_what_would_lose_objects_is_refused(ids, names, message):
    with pytest.raises(UserError, match=message):
        renumber(content([(1, 'red'), (2, 'blue')], ids), names)


def test_files(tmp_path):
    source, target = tmp_path / 'a.json', tmp_path / 'b.json'
    source.write_text(json.dumps(content([(2, 'röt'), (1, 'blue')], [2])), encoding='utf-8')
    assert '1  röt' in renumber_file(source, target)
    assert names_of_objects(json.loads(target.read_text(encoding='utf-8'))) == ['röt']
    with pytest.raises(UserError, match='exists already'):
        renumber_file(target, source)
    for text in ('[1', '[]', '{}', '{"categories": [{}], "annotations": []}'):
        source.write_text(text)
        with pytest.raises(UserError, match='cannot be read as a COCO annotation file'):
            renumber_file(source, tmp_path / 'c.json')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.json', 'b.json']
