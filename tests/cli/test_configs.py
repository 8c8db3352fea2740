"""Finding config files."""
import sys

import pytest

from mmcontainer.cli.configs import find_config, load_config, own_name
from mmcontainer.compat import own_folder
from mmcontainer.errors import UserError

NAME = 'retinanet/container_light_fpn_1x_coco.py'


def test_all_ways_to_name_a_config(monkeypatch, tmp_path):
    expected = (own_folder('configs') / NAME).resolve()
    monkeypatch.chdir(tmp_path)  # far from the checkout
    assert find_config(f'mmcontainer::{NAME}').resolve() == expected
    assert find_config(f'configs/{NAME}').resolve() == expected
    assert find_config(str(expected)) == expected
    mmdet = find_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert mmdet.is_file() and 'mmdet' in mmdet.parts


def test_own_file_comes_first(monkeypatch, tmp_path):
    own = tmp_path / 'configs' / NAME
    own.parent.mkdir(parents=True)
    own.write_text('x = 1')
    monkeypatch.chdir(tmp_path)
    assert load_config(f'configs/{NAME}').x == 1


def test_a_mistaken_path_is_not_taken_for_a_config_of_ours(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='There is no config file experiment/configs'):
        find_config(f'experiment/configs/{NAME}')
    assert find_config(f'./configs/{NAME}').is_file()


def test_imports_among_the_options_are_imported(monkeypatch, tmp_path):
    (tmp_path / 'my_parts_of_options.py').write_text('IMPORTED = True')
    monkeypatch.syspath_prepend(tmp_path)
    load_config(f'mmcontainer::{NAME}', {
        'custom_imports.imports': ['mmcontainer', 'my_parts_of_options']})
    assert sys.modules['my_parts_of_options'].IMPORTED
    with pytest.raises(UserError, match='--cfg-options: .*no_such_parts'):
        load_config(f'mmcontainer::{NAME}', {'custom_imports.imports': ['no_such_parts']})


def test_own_name_is_that_of_the_very_file(monkeypatch, tmp_path):
    own = own_folder('configs') / NAME
    name = NAME.removesuffix('.py')
    assert own_name(str(own)) == own_name(f'mmcontainer::{NAME}') == name
    monkeypatch.chdir(own.parent)
    assert own_name(own.name) == name
    monkeypatch.chdir(tmp_path)
    assert own_name(f'configs/{NAME}') == name

    mine = tmp_path / 'mine' / NAME
    mine.parent.mkdir(parents=True)
    mine.write_bytes(own.read_bytes())  # of a checkout beside the installed package
    assert own_name(str(mine)) == name
    mine.write_text(f"_base_ = 'mmcontainer::{NAME}'")
    assert own_name(str(mine)) is None
    (tmp_path / 'other.py').write_bytes(own.read_bytes())
    assert own_name('other.py') is None
    assert own_name('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py') is None


@pytest.mark.parametrize('name, hint', [
    ('configs/retinanet/container_lite_fpn_1x_coco.py', NAME),
    ('mmcontainer::retinanet/container_light_fpn_1x.py', f'mmcontainer::{NAME}'),
    ('qqq.py', f'mmcontainer::{NAME}'),
    ('nolibrary::a/b.py', "'nolibrary' is not installed"),
])
def test_unknown_config(name, hint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find_config(name)
    assert name in str(caught.value) and hint in str(caught.value)


def test_neighbour_is_suggested(monkeypatch, tmp_path):
    (tmp_path / 'my_cells.py').write_text('')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='(?s)Did you mean.*my_cells.py'):
        find_config('my_cels.py')


@pytest.mark.parametrize('text, hint', [
    ('_base_ = "./gone.py"', 'gone.py'),
    ('model = dict(', 'never closed'),
    ("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)",
     'no_such_module'),
    ("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=True)",
     "'no_such_module' cannot be imported .*No module named"),
    ("custom_imports = dict(imports='no_such_module')", 'no_such_module'),
    ('x = 1\nx = undefined + 1', "NameError: name 'undefined'.*bad.py, line 2: x = undefined"),
    ('x = [1][5]', 'IndexError.*bad.py, line 1'),
    ('assert False, "so it is"', 'AssertionError: so it is'),
    ("_base_ = 'mmcontainer::imagenet/container_light_8xb128_in1k.py'\n"
     'model = dict(backbone=dict(arch=dict(depths=(1, 1, 1, 1))))', '_delete_=True'),
    ('x = "Zelle, groß"'.encode('latin-1'), 'UTF-8'),
    ('x = 1'.encode('utf-16'), 'UTF-8'),
    (b'\x00\x01\x02', 'null bytes'),
])
def test_unreadable_config(text, hint, tmp_path):
    path = tmp_path / 'bad.py'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f'(?is)bad.py cannot be read as a config.*{hint}'):
        load_config(str(path))


def test_the_file_and_line_of_a_base_are_named(tmp_path):
    (tmp_path / 'base.py').write_text("def check(x):\n    return x['gone']\n\ny = check({})")
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'")
    with pytest.raises(UserError, match=r"mine.py cannot be .*'?gone.*base.py, line 4: y = check"):
        load_config(str(tmp_path / 'mine.py'))


def test_circle_of_bases(tmp_path):
    for name, base in (('a', 'b'), ('b', 'c'), ('c', 'b')):
        (tmp_path / f'{name}.py').write_text(f"_base_ = './{base}.py'")
    with pytest.raises(UserError, match=r'a.py cannot be .*a circle, \S+b.py -> \S+c.py -> \S+b'):
        load_config(str(tmp_path / 'a.py'))


@pytest.mark.parametrize('name, text', [('a.json', '[1, 2'), ('a.json', '[1]'), ('a.yml', 'a: [')])
def test_other_formats(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=f'{name} cannot be read as a config'):
        load_config(str(path))


def test_checkpoint_in_place_of_a_config(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_text('')
    with pytest.raises(UserError, match='is no config'):
        load_config(str(path))
