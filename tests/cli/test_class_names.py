"""Sources of class names, in all the types in which they were ever saved."""
import pytest
from mmengine.config import Config

pytest.importorskip('mmcv.ops')

from torch import nn  # noqa: E402

from mmcontainer.cli.class_names import find_meta, name_classes  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402

CHECKPOINT, CONFIG = 'named by the checkpoint', 'named by the config'


def make_config(**dataset):
    dataset = dict(type='CocoDataset', ann_file='not/read.json', pipeline=[], **dataset)
    return Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dataset)))


@pytest.fixture
def cfg():
    return make_config(metainfo=dict(classes=('a', 'b')))


@pytest.mark.parametrize('meta', [
    dict(dataset_meta=dict(classes=('x', 'y'))),
    dict(dataset_meta=dict(classes=['x', 'y'], palette=None)),
    dict(dataset_meta=dict(CLASSES=('x', 'y'), PALETTE=[(1, 2, 3)])),
    dict(CLASSES=('x', 'y')),
    dict(CLASSES=['x', 'y'], dataset_meta=None),
])
def test_names_of_the_checkpoint(cfg, meta):
    found, source = find_meta(dict(state_dict={}, meta=meta), cfg)
    assert found['classes'] == ('x', 'y') and source == CHECKPOINT


@pytest.mark.parametrize('content', [
    {}, dict(meta=None), dict(meta=[]), dict(meta={}), dict(meta=dict(dataset_meta=None)),
    dict(meta=dict(dataset_meta={})), dict(meta=dict(dataset_meta=dict(classes=None))),
    dict(meta=dict(dataset_meta=dict(classes=()), CLASSES=None)),
])
def test_names_of_the_config(cfg, content):
    found, source = find_meta(content, cfg)
    assert found['classes'] == ('a', 'b') and source == CONFIG


def test_a_string_is_one_name(cfg):
    assert find_meta(dict(meta=dict(CLASSES='cell')), cfg)[0]['classes'] == ('cell', )


def test_names_of_the_type_of_the_data_set():
    found, source = find_meta({}, make_config())
    assert len(found['classes']) == len(found['palette']) == 80 and source == CONFIG
    from mmdet.datasets import VOCDataset
    cfg = make_config()
    cfg.test_dataloader.dataset.type = VOCDataset
    assert len(find_meta({}, cfg)[0]['classes']) == 20


def test_names_inside_of_wrappers():
    inner = dict(make_config(metainfo=dict(classes=('a', ))).test_dataloader.dataset)
    for wrapper in (dict(type='ConcatDataset', datasets=[inner, inner]),
                    dict(type='RepeatDataset', times=2, dataset=inner)):
        cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=wrapper)))
        assert find_meta({}, cfg)[0]['classes'] == ('a', )


def test_names_in_a_file(tmp_path):
    (tmp_path / 'names.txt').write_text('a\nb\nc\n')
    cfg = make_config(metainfo=dict(classes=str(tmp_path / 'names.txt')))
    assert find_meta({}, cfg)[0]['classes'] == ('a', 'b', 'c')


def test_no_names_at_all():
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dict(
        type='BaseDataset', pipeline=[]))))
    found, source = find_meta({}, cfg)
    assert found == dict(classes=None, palette=None) and source == 'which nothing names'


def test_palettes(cfg):
    colours = [[1, 2, 3], [4, 5, 6]]
    meta = dict(dataset_meta=dict(classes=('x', 'y'), palette=tuple(map(tuple, colours))))
    assert find_meta(dict(meta=meta), cfg)[0]['palette'] == [(1, 2, 3), (4, 5, 6)]
    meta['dataset_meta']['palette'] = colours[:1]  # MMDetection would stop at the second class
    assert len(find_meta(dict(meta=meta), cfg)[0]['palette']) >= 2  # the data set's


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def make_model():
    """A detector like a cascade: an RPN of one class, and several box heads."""
    model = nn.Module()
    model.rpn_head = Head(1)
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = nn.ModuleList([Head(2), Head(2)])
    return model


def test_as_many_names_as_classes(cfg):
    assert name_classes(make_model(), {}, cfg) == find_meta({}, cfg)
    with pytest.raises(UserError, match='=2, but there are 3 classes named by the check'):
        name_classes(make_model(), dict(meta=dict(CLASSES=('x', 'y', 'z'))), cfg)
    with pytest.raises(UserError, match=r'80 classes named by the config: person, .* \.\.\.'):
        name_classes(make_model(), {}, make_config())
    one = nn.Module()
    one.bbox_head = Head(2)
    with pytest.raises(UserError, match='there are 1 classes'):
        name_classes(one, dict(meta=dict(CLASSES='cell')), cfg)


def test_nothing_names_the_classes():
    cfg = Config(dict(default_scope='mmdet'))
    assert name_classes(make_model(), {}, cfg) == (
        dict(classes=('class 0', 'class 1'), palette=None), 'which nothing names')
    assert name_classes(nn.Module(), {}, cfg)[0]['classes'] is None
