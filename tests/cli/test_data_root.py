"""Redirecting a config's data, and the message about what is missing."""
import copy

import pytest
from mmengine.config import Config

from mmcontainer.cli.configs import load_config
from mmcontainer.cli.data_root import set_data_root
from mmcontainer.config_nodes import iter_datasets
from mmcontainer.data_check import check_data
from mmcontainer.errors import UserError


def leaf(split='train', root='data/coco/', **more):
    return dict(type='CocoDataset', data_root=root, ann_file=f'annotations/{split}.json',
                data_prefix=dict(img=f'{split}/'), pipeline=[], **more)


def make_config(train, root='data/coco/', **more):
    return Config({
        'data_root': root,
        'train_dataloader': dict(dataset=train),
        'val_dataloader': dict(dataset=leaf('val', root)),
        'test_dataloader': dict(dataset=leaf('val', root)),
        'val_evaluator': dict(type='CocoMetric', ann_file=f'{root}annotations/val.json'),
        'test_evaluator': [dict(type='CocoMetric', ann_file=f'{root}annotations/val.json',
                                metric=['bbox', 'segm']), dict(type='Other')],
        **more,
    })


WRAPPED = {
    'plain': leaf(),
    'repeat': dict(type='RepeatDataset', times=2, dataset=leaf()),
    'class_balanced': dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=leaf()),
    'mix': dict(type='MultiImageMixDataset', dataset=leaf(), pipeline=[dict(type='Mosaic')]),
    'concat': dict(type='ConcatDataset', datasets=[leaf(), leaf('extra')]),
    'nested': dict(type='RepeatDataset', times=2, dataset=dict(
        type='ConcatDataset', datasets=[leaf(), dict(
            type='ClassBalancedDataset', dataset=leaf('extra'))])),
}


@pytest.mark.parametrize('wrapper', WRAPPED)
def test_every_data_set_below_a_wrapper_moves(wrapper):
    cfg = make_config(WRAPPED[wrapper])
    set_data_root(cfg, '/mnt/other')
    leaves = list(iter_datasets(cfg.train_dataloader.dataset))
    assert len(leaves) == (2 if wrapper in ('concat', 'nested') else 1)
    assert {item.data_root for item in leaves} == {'/mnt/other/'}
    assert [item.ann_file for item in leaves][0] == 'annotations/train.json'
    assert leaves[0].data_prefix.img == 'train/'


def test_all_loaders_and_evaluators_move():
    cfg = make_config(leaf())
    set_data_root(cfg, 'elsewhere')
    assert cfg.data_root == 'elsewhere/'
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == 'elsewhere/'
    assert cfg.val_evaluator.ann_file == 'elsewhere/annotations/val.json'
    assert cfg.test_evaluator[0].ann_file == 'elsewhere/annotations/val.json'
    assert cfg.test_evaluator[0].metric == ['bbox', 'segm']
    assert 'data/coco' not in cfg.pretty_text


def test_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    cfg = make_config(leaf())
    set_data_root(cfg, '~/coco')
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/coco/'


def test_root_of_a_custom_config():
    """Only the dataloaders name the folder; the top-level data_root is left over from a base."""
    cfg = make_config(leaf(root='data/cells/'), root='data/cells/')
    cfg.data_root = 'data/coco/'
    set_data_root(cfg, '/x')
    assert cfg.test_dataloader.dataset.data_root == '/x/'
    assert cfg.test_evaluator[0].ann_file == '/x/annotations/val.json'


def test_paths_written_in_full_move():
    full = dict(type='CocoDataset', ann_file='data/coco/annotations/train.json',
                data_prefix=dict(img='data/coco/train/'))
    cfg = make_config(full)
    set_data_root(cfg, '/x')
    moved = cfg.train_dataloader.dataset
    assert moved.ann_file == '/x/annotations/train.json'
    assert moved.data_prefix.img == '/x/train/'


def test_folders_below_the_root_keep_their_place():
    cfg = make_config(dict(type='ConcatDataset', datasets=[
        leaf(root='data/coco/a/'), leaf(root='data/coco/b/')]))
    set_data_root(cfg, '/x')
    roots = [item.data_root for item in iter_datasets(cfg.train_dataloader.dataset)]
    assert roots == ['/x/a/', '/x/b/']


def test_the_current_folder_is_no_root_to_replace():
    cfg = make_config(leaf(root='./'))
    before = copy.deepcopy(cfg)
    with pytest.raises(UserError, match="read from './', the current folder"):
        set_data_root(cfg, '/x')
    assert cfg.to_dict() == before.to_dict()


def test_several_roots_are_refused():
    cfg = make_config(dict(type='ConcatDataset', datasets=[leaf(), leaf(root='data/voc/')]))
    with pytest.raises(UserError, match='(?s)several folders.*data/coco/.*data/voc/'):
        set_data_root(cfg, '/x')


def test_an_evaluator_that_reads_elsewhere_is_refused():
    cfg = make_config(leaf())
    cfg.val_evaluator.ann_file = 'data/voc/val.json'
    with pytest.raises(UserError, match='data/voc/val.json'):
        set_data_root(cfg, '/x')


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{}')


def test_complete_data_passes(tmp_path):
    cfg = make_config(leaf())
    set_data_root(cfg, str(tmp_path))
    fill(tmp_path, 'annotations/train.json', 'annotations/val.json', 'train/1.jpg', 'val/1.jpg')
    check_data(cfg, ('train', 'val', 'test'))


def test_message_lists_what_is_missing(tmp_path):
    cfg = make_config(leaf())
    set_data_root(cfg, str(tmp_path))
    fill(tmp_path, 'annotations/train.json', 'val/1.jpg')
    (tmp_path / 'train').mkdir()
    with pytest.raises(UserError) as caught:
        check_data(cfg)
    text = str(caught.value)
    assert [line for line in text.splitlines() if line.startswith(f'  {tmp_path}')] == [
        f'  {tmp_path}/annotations/val.json: missing', f'  {tmp_path}/train/: empty']
    assert '2 of 4 parts' in text and f'in place of {tmp_path}/)' in text and 'make demo' in text


def test_only_the_splits_in_use_are_checked(tmp_path):
    cfg = make_config(leaf())
    set_data_root(cfg, str(tmp_path))
    fill(tmp_path, 'annotations/val.json', 'val/1.jpg')
    check_data(cfg, ('test', ))
    with pytest.raises(UserError):
        check_data(cfg, ('train', ))


def test_annotations_among_the_images(tmp_path):
    """The layout of Roboflow exports: train/_annotations.coco.json beside the images."""
    cfg = Config(dict(train_dataloader=dict(dataset=dict(
        type='CocoDataset', data_root=str(tmp_path), ann_file='train/_annotations.coco.json',
        data_prefix=dict(img='train/')))))
    with pytest.raises(UserError, match=r'(?s)train/: missing\n.*_annotations.coco.json: missing'):
        check_data(cfg, ('train', ))


def test_missing_file_outside_the_root(tmp_path):
    cfg = make_config(leaf())
    set_data_root(cfg, str(tmp_path))
    fill(tmp_path, 'annotations/train.json', 'annotations/val.json', 'train/1.jpg', 'val/1.jpg')
    cfg.val_evaluator.ann_file = '/nowhere/val.json'
    with pytest.raises(UserError, match='/nowhere/val.json: missing'):
        check_data(cfg)


IMAGENET = 'mmcontainer::imagenet/container_light_8xb128_in1k.py'


def image_folders(tmp_path, **dataset):
    """The ImageNet config on a folder of its own, with two classes unless said otherwise."""
    cfg = load_config(IMAGENET)
    set_data_root(cfg, str(tmp_path))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update({'metainfo': dict(classes=('a', 'b')), **dataset})
    return cfg


def test_image_folders_move(tmp_path):
    cfg = image_folders(tmp_path)
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == str(tmp_path)
    assert 'data/imagenet' not in cfg.pretty_text
    fill(tmp_path, *(f'{split}/{name}/1.jpg' for split in ('train', 'val') for name in 'ab'))
    check_data(cfg)


def test_message_about_image_folders(tmp_path):
    cfg = image_folders(tmp_path)
    fill(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'train/c/1.jpg', 'val/ILSVRC_1.JPEG')
    with pytest.raises(UserError) as caught:
        check_data(cfg)
    text = str(caught.value)
    assert 'train/: 3 folders, 2 expected: one per class' in text
    assert 'val/: 0 folders, 2 expected' in text
    assert 'image-net.org' in text and 'meta/val.txt' in text and 'cocodataset' not in text
    with pytest.raises(UserError, match='3 folders, 1000 expected'):
        check_data(image_folders(tmp_path, metainfo=None))
    custom = image_folders(tmp_path, type='CustomDataset', metainfo=None, data_prefix='val')
    with pytest.raises(UserError, match='no folders in it: one per class expected'):
        check_data(custom, ('train', ))


def test_listed_images_need_no_folders_of_classes(tmp_path):
    """meta/val.txt is read where it exists; another list has to exist."""
    cfg = image_folders(tmp_path, metainfo=None)
    cfg.train_dataloader.dataset.ann_file = 'meta/train_10pct.txt'
    fill(tmp_path, 'train/1.jpg', 'val/1.jpg', 'meta/val.txt')
    with pytest.raises(UserError, match='(?s)train_10pct.txt: missing.*imagenet-subset'):
        check_data(cfg)
    fill(tmp_path, 'meta/train_10pct.txt')
    check_data(cfg)
