"""Renaming, strict loading, and every message that a person may get to see."""
import argparse
import copy
import re

import pytest
import torch
from golden_rule import make_state_dict

from mmcontainer.backbones import Container
from mmcontainer.checkpoints import (
    KeyMismatchError,
    KeyTable,
    UnsafeCheckpointError,
    convert,
    convert_back,
    load_backbone,
    save_with_hash,
)
from mmcontainer.checkpoints.files import resolve_path
from mmcontainer.engine import StrictPretrained

OFFICIAL = 'container_v1_light'


@pytest.fixture(scope='module')
def official():
    return make_state_dict(OFFICIAL, seed=3, gain=0.6)


@pytest.fixture(scope='module')
def released_file(official, tmp_path_factory):
    """A file laid out like the released checkpoint: weights beside the state of the training."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    path = tmp_path_factory.mktemp('official') / 'checkpoint.pth'
    torch.save({'model': official, 'optimizer': optimizer.state_dict(), 'epoch': 299,
                'lr_scheduler': {'base_values': [5e-4], 'noise_seed': 42, 'decay_rate': 0.1},
                'args': argparse.Namespace(model='container_v1_light', lr=5e-4)}, path)
    return path


def test_table_reads_both_ways_and_names_what_it_cannot_place():
    table = KeyTable('toy', {'layer#.*': 'stages.#.conv.*', 'fc.weight': 'head.weight'})
    weights = {'layer3.a.weight': torch.zeros(1), 'fc.weight': torch.ones(1)}
    ours = table.convert(weights)
    assert list(ours) == ['stages.3.conv.a.weight', 'head.weight']
    assert list(table.convert(ours, reverse=True)) == list(weights)
    with pytest.raises(KeyMismatchError, match=r"2 of 3 keys .* 'toy': layerX.weight, surprise\."):
        table.convert({'layerX.weight': 0, 'fc.weight': 0, 'surprise': 0})
    with pytest.raises(ValueError, match='different wild-cards'):
        KeyTable('bad', {'layer#.*': 'stages.*'})


def test_convert_accepts_the_wrapped_checkpoint_and_data_parallel_names(official):
    plain = convert(official, 'container')
    wrapped = {'model': {f'module.{key}': value for key, value in official.items()}, 'epoch': 1}
    assert list(convert(wrapped)) == list(plain)
    assert list(convert_back(plain, 'container')) == list(official)


def test_convert_messages(official):
    with pytest.raises(ValueError, match="Unknown checkpoint source 'swin'.*'auto', 'container'"):
        convert(official, 'swin')
    with pytest.raises(ValueError, match='Unknown checkpoint source'):
        convert_back(official, 'auto')
    broken = {**official, 'blocks1.0.surprise': torch.zeros(1),
              'blocks5.0.conv1.weight': torch.zeros(1)}
    for source in ('auto', 'container'):
        with pytest.raises(KeyMismatchError) as error:
            convert(broken, source)
        assert 'blocks1.0.surprise, blocks5.0.conv1.weight' in str(error.value)
        assert 'norm1' not in str(error.value)
    for nonsense in ([1], {}, {'epoch': 3}, {'model': {'a': 1}}):
        with pytest.raises(ValueError, match='Expected a dict of tensors by name'):
            convert(nonsense)


def test_released_file_loads_everything(released_file, official):
    model = Container('light', final_norm=True)
    load_backbone(model, released_file)
    expected = convert(official)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('final_norm', [True, False])
@pytest.mark.parametrize('layout', ['ours', 'official', 'backbone', 'detector', 'wrapped'])
def test_every_layout_of_a_state_dict_loads(official, layout, final_norm):
    ours = convert(official)
    detector = {f'backbone.{key}': value for key, value in ours.items() if key != 'head.weight'}
    state_dict = {
        'ours': ours,
        'official': official,
        'backbone': {f'backbone.{key}': value for key, value in official.items()},
        'detector': {**detector, 'neck.weight': torch.zeros(2), 'head.fc.weight': torch.zeros(2)},
        'wrapped': {'state_dict': ours, 'meta': {'epoch': 1}, 'message_hub': None},
    }[layout]
    model = Container('light', final_norm=final_norm)
    load_backbone(model, state_dict)
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def test_loading_is_all_or_nothing(official):
    model = Container('light')
    before = copy.deepcopy(model.state_dict())
    missing = dict(official)
    del missing['blocks2.1.conv1.weight'], missing['blocks4.0.sa_weight']
    no_norm = {key: value for key, value in official.items() if not key.startswith('norm.')}
    cases = [
        (missing, ['2 weights missing', 'stages.1.blocks.1.aggregation.in_proj.weight',
                   'stages.3.blocks.0.aggregation.mix_logit']),
        ({**convert(official), 'stages.0.odd': torch.zeros(1)},
         ['1 weights left over', 'stages.0.odd']),
        (make_state_dict('container_light_paper', 1, 1.),
         ['stages.0.blocks.0.mlp.fc1.weight (model (512, 64, 1, 1), checkpoint (256, ']),
    ]
    for state_dict, texts in cases:
        with pytest.raises(KeyMismatchError) as error:
            load_backbone(model, state_dict)
        assert all(text in str(error.value) for text in texts)
        assert 'nothing was loaded' in str(error.value)
    with pytest.raises(KeyMismatchError, match='missing in the checkpoint: norm.weight'):
        load_backbone(Container('light', final_norm=True), no_norm)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class TouchesDisk:
    """An object whose unpickling runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_file_that_needs_code_is_refused_without_running_it(tmp_path, official):
    victim = tmp_path / 'victim'
    torch.save({'model': official, 'extra': TouchesDisk(victim)}, tmp_path / 'evil.pth')
    with pytest.raises(UnsafeCheckpointError) as error:
        load_backbone(Container('light'), tmp_path / 'evil.pth')
    assert not victim.exists()
    message = str(error.value)
    assert re.search(r"'_?io\.open'", message)
    assert 'weights_only=False' in message and 'NEW.pth' in message


def test_strict_pretrained_says_where_the_weights_are(tmp_path):
    def message_of(name):
        with pytest.raises(FileNotFoundError) as error:
            StrictPretrained(str(tmp_path / name))(Container('light'))
        return str(error.value)

    released = message_of('container_light_in1k.pth')
    assert 'https://drive.google.com/file/d/' in released
    assert ('mmcontainer convert DOWNLOADED_FILE '
            f'{tmp_path / "container_light_in1k.pth"}') in released
    assert '--from-scratch' in released
    never_released = message_of('container_light_paper_in1k.pth')
    assert 'No weights' in never_released and '--from-scratch' in never_released
    other = message_of('typo.pth')
    assert 'Check the path' in other and 'drive.google' not in other


def test_convert_tool_end_to_end(launch_tool, run_tool, released_file, official, tmp_path):
    target = tmp_path / 'new' / 'container_light_in1k.pth'
    output = launch_tool('convert_checkpoint.py', released_file, target)
    assert 'blocks4.0.sa_weight -> stages.3.blocks.0.aggregation.mix_logit  (1,)' in output
    assert f'Mapped all {len(official)} entries' in output
    written, = target.parent.iterdir()
    assert written.stem.startswith('container_light_in1k-') and str(written) in output
    # The stable name finds the hashed file, and a second run writes the very same one.
    run_tool('convert_checkpoint.py', released_file, target)
    assert list(target.parent.iterdir()) == [written]
    model = Container(init_cfg=dict(type='StrictPretrained', checkpoint=str(target)))
    model.init_weights()
    expected = convert(official)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    back = tmp_path / 'back.pth'
    run_tool('convert_checkpoint.py', written, back, '--source', 'container', '--to-official')
    restored = torch.load(next(tmp_path.glob('back-*.pth')), weights_only=True)['state_dict']
    torch.testing.assert_close(restored, official, rtol=0, atol=0)


def test_convert_tool_messages(call_tool, tmp_path):
    (tmp_path / 'page.pth').write_text('<html>Sign in to download</html>')
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'foreign.pth')
    for source, text in (('absent.pth', 'There is no file'),
                         ('page.pth', 'web page saved in place'),
                         ('foreign.pth', 'of no known source')):
        output = call_tool('convert_checkpoint.py', source, 'out/dst.pth')
        assert text in output and 'Traceback' not in output
        assert not (tmp_path / 'out').exists()


def test_damaged_files_are_recognised(tmp_path):
    path = save_with_hash({'weight': torch.arange(1000.)}, tmp_path / 'a.pth')
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    for name in (tmp_path / 'a.pth', path):
        with pytest.raises(RuntimeError, match='does not have the content its name promises'):
            load_backbone(Container(), name)
    (tmp_path / 'b.pth').write_bytes(content[:-200])
    with pytest.raises(RuntimeError, match='incomplete download'):
        load_backbone(Container(), tmp_path / 'b.pth')


def test_a_file_of_a_longer_name_does_not_stand_for_another(tmp_path):
    save_with_hash({'x': torch.ones(1)}, tmp_path / 'a-finetuned.pth')
    (tmp_path / 'a-.pth').touch()
    with pytest.raises(FileNotFoundError, match='There is no file'):
        resolve_path(tmp_path / 'a.pth')
    save_with_hash({'x': torch.zeros(1)}, tmp_path / 'a.pth')
    assert len(resolve_path(tmp_path / 'a.pth').stem) == len('a-12345678')


def test_two_hashed_files_are_not_guessed_between(tmp_path):
    for value in (0., 1.):
        save_with_hash({'weight': torch.tensor(value)}, tmp_path / 'a.pth')
    with pytest.raises(FileNotFoundError, match='several files could stand for it'):
        load_backbone(Container(), tmp_path / 'a.pth')


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('os.replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_with_hash({'weight': torch.zeros(1)}, tmp_path / 'a.pth')
    assert not list(tmp_path.iterdir())
