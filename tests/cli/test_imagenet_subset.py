"""Lists of a share of a data set."""
import os

import pytest

from mmcontainer.cli import imagenet_subset
from mmcontainer.cli.imagenet_subset import choose_share, list_images, write_subset
from mmcontainer.errors import UserError

SIZES = {'n03': 3, 'n01': 21, 'n02': 40}


@pytest.fixture
def folder(tmp_path):
    """Three classes of 3, 21 and 40 images, created in no order; one image lies deeper."""
    root = tmp_path / 'data' / 'train'
    for name, size in SIZES.items():
        (root / name).mkdir(parents=True)
        for number in reversed(range(size)):
            suffix = '.JPEG' if number % 2 else '.png'
            (root / name / f'{name} {number}{suffix}').write_bytes(b'')
        (root / name / 'notes.txt').write_text('no image')
    (root / 'n02' / 'more').mkdir()
    (root / 'n02' / 'more' / 'deep.jpg').write_bytes(b'')
    return root


def read(path):
    pairs = [line.rsplit(' ', 1) for line in path.read_text().splitlines()]
    return {name: int(number) for name, number in pairs}


def test_share_of_every_class(folder, tmp_path):
    out = tmp_path / 'meta' / 'list.txt'
    message = write_subset(folder, 0.1, 0, out)
    chosen = read(out)
    # 10 % of 21, 41 and 3 images are 2.1, 4.1 and 0.3: at least one.
    assert [list(chosen.values()).count(number) for number in range(3)] == [2, 4, 1]
    assert all(name.startswith(f'n0{number + 1}/') for name, number in chosen.items())
    assert list(chosen) == sorted(chosen)
    assert '7 of 65 images (10.8%) of 3 classes, seed 0' in message and str(out) in message
    assert os.stat(out).st_mode & 0o777 == 0o644
    assert [path.name for path in out.parent.iterdir()] == ['list.txt']


def test_mmpretrain_reads_it_like_the_folder_itself(folder, tmp_path):
    from mmpretrain.datasets import CustomDataset, ImageNet
    whole = CustomDataset(data_root=str(folder.parent), data_prefix='train', pipeline=[])
    expected = {info['img_path']: info['gt_label'] for info in whole.load_data_list()}
    assert len(expected) == 65
    for share in (1., 0.5):
        write_subset(folder, share, 3, folder.parent / 'meta' / f'{share}.txt')
        dataset = ImageNet(data_root=str(folder.parent), split='train', pipeline=[],
                           ann_file=f'meta/{share}.txt')
        found = {info['img_path']: info['gt_label'] for info in dataset.load_data_list()}
        assert found.items() <= expected.items()
        assert len(found) == len(expected) if share == 1 else 30 < len(found) < 35


def test_smaller_lists_are_part_of_larger_ones(folder):
    images = list_images(folder)['n02']
    previous = set()
    for share in (0.001, 0.1, 0.5, 0.8, 1.):
        chosen = set(choose_share(images, share, seed=0))
        assert previous < chosen
        previous = chosen
    assert previous == set(images)


def test_only_seed_and_names_decide(folder):
    images = list_images(folder)['n02']
    chosen = choose_share(images, 0.5, seed=0)
    assert chosen == choose_share(images[::-1], 0.5, seed=0)
    assert chosen != choose_share(images, 0.5, seed=1)
    # Written down, because the lists must stay the same for ever.
    for ending in ('.JPEG', '.jpg'):
        chosen = choose_share([f'{i}{ending}' for i in range(10)], 0.3, 0)
        assert chosen == [f'{i}{ending}' for i in PINNED]


PINNED = [4, 6, 8]


def test_choice_is_uniform():
    """Every image is as likely as any other: 400 seeds, expected 100 +- 4 sigma (35)."""
    names = [f'n01/{number}.JPEG' for number in range(20)]
    counts = dict.fromkeys(names, 0)
    for seed in range(400):
        for name in choose_share(names, 0.25, seed):
            counts[name] += 1
    assert sum(counts.values()) == 2000
    assert all(65 < count < 135 for count in counts.values())


@pytest.mark.parametrize('share', [0., -0.1, 1.01, float('nan')])
def test_share_out_of_range(folder, tmp_path, share):
    with pytest.raises(UserError, match='above 0 and at most 1'):
        write_subset(folder, share, 0, tmp_path / 'list.txt')


def test_nothing_to_choose_from(folder, tmp_path):
    out = tmp_path / 'new' / 'list.txt'
    with pytest.raises(UserError, match='no folder .*gone'):
        write_subset(tmp_path / 'gone', 0.1, 0, out)
    with pytest.raises(UserError, match='holds no folders'):
        write_subset(folder / 'n01', 0.1, 0, out)
    with pytest.raises(UserError, match=r'(?s)which are no classes.*data/train'):
        write_subset(folder.parent, 0.1, 0, out)
    (folder / 'n04').mkdir()
    with pytest.raises(UserError, match=r'1 of 4 folders .* hold no images .*n04'):
        write_subset(folder, 0.1, 0, out)
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_noticed_before_images_are_listed(folder, monkeypatch):
    monkeypatch.setattr(imagenet_subset, 'list_images', None)
    (folder / 'file').write_text('')
    with pytest.raises(UserError, match='--out .*cannot be written'):
        write_subset(folder, 0.1, 0, folder / 'file' / 'list.txt')


def test_without_mmpretrain(folder, monkeypatch):
    monkeypatch.setattr(imagenet_subset, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='MMPretrain.*is not installed.*mmcontainer.doctor'):
        list_images(folder)


def test_a_file_is_replaced_only_on_demand(folder, tmp_path):
    out = tmp_path / 'list.txt'
    out.write_text('precious')
    with pytest.raises(UserError, match='--force'):
        write_subset(folder, 0.1, 0, out)
    assert out.read_text() == 'precious'
    write_subset(folder, 0.1, 0, out, force=True)
    assert len(read(out)) == 7
    with pytest.raises(UserError, match='is a folder'):
        write_subset(folder, 0.1, 0, tmp_path, force=True)


def test_command_line(folder, launch_tool, run_tool):
    tool = 'make_imagenet_subset.py'
    output = launch_tool(
        tool, 'data/train', '--share', 0.5, '--seed', 2, '--out', 'data/meta/half.txt')
    assert '32 of 65 images (49.2%) of 3 classes, seed 2' in output
    output = run_tool(tool, 'data', '--share', 0.5, '--out', 'other.txt', code=2)
    assert 'data/train' in output and 'Traceback' not in output
