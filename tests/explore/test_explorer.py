"""What is behind the page: photographs, objects, and the drawings of what points collect."""
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmcv.ops')

from mmengine.registry import init_default_scope  # noqa: E402
from small_detectors import CLASSES, build_model, make_config, scene  # noqa: E402

from mmcontainer import Detector  # noqa: E402
from mmcontainer.backbones import CoAtNet, CoTNet  # noqa: E402
from mmcontainer.errors import UserError  # noqa: E402
from mmcontainer.explore.drawings import (  # noqa: E402
    draw_blocks,
    draw_photograph,
    draw_query,
    object_names,
)
from mmcontainer.explore.explorer import Explorer  # noqa: E402


@pytest.fixture(scope='module')
def models(repo_root):
    """Return a function: config and model of a small detector, which is built once."""
    built = {}

    def get(name='retinanet'):
        if name not in built:
            cfg = make_config(repo_root, name)
            built[name] = cfg, build_model(cfg)
        init_default_scope('mmdet')
        return built[name]

    return get


@pytest.fixture
def explorer(models):
    cfg, model = models()
    return Explorer(Detector.from_model(model, cfg))


@pytest.fixture
def smca(models):
    cfg, model = models('smca')
    return Explorer(Detector.from_model(model, cfg))


def pictures(html):
    """The maps in HTML, as the addresses of their pictures, in order."""
    return re.findall(r'class="mc-cells" alt="[^"]*" src="([^"]*)"', html)


def test_all_objects_are_found_once_and_shown_by_their_score(explorer, photo, monkeypatch):
    calls, model = [], explorer.detector.model
    monkeypatch.setattr(model, 'test_step', lambda data, run=model.test_step: (
        calls.append('detector'), run(data))[1])
    monkeypatch.setattr(model.backbone, 'forward', lambda x, run=model.backbone.forward: (
        calls.append('backbone'), run(x))[1])
    photograph = explorer[explorer.open(photo, 'photo.png')]
    assert calls == ['detector', 'backbone']  # which has kept what clicks need
    expected = explorer.detector(str(photo), score_thr=0.)
    assert [one.to_dict() for one in photograph.found] == [one.to_dict() for one in expected]
    scores = [one.score for one in photograph.found]
    assert len(scores) > 10 and scores[0] - scores[-1] > 0.05
    calls.clear()
    middle = scores[len(scores) // 2]
    few, all_ = (draw_photograph(photograph, score) for score in (middle, 0.))
    assert few.shape == all_.shape and not np.array_equal(few, all_)
    shown = photograph.shown(middle)
    assert [number for number, _ in shown] == list(range(len(shown)))
    assert len(shown) < len(scores) == len(object_names(photograph, 0.))
    draw_blocks(photograph, (30., 40.))
    assert calls == []  # neither slider nor click has run anything


def test_drawings_depend_on_the_point(explorer, photo):
    photograph = explorer[explorer.open(photo, 'photo.png')]
    one, other = (pictures(draw_blocks(photograph, place)) for place in ((30., 40.), (120., 70.)))
    # Static affinity alone in three blocks, and three maps in each of the last two.
    assert len(one) == len(other) == 3 + 2 * 3
    assert all(map(str.__ne__, one, other))
    assert one == pictures(draw_blocks(photograph, (30., 40.)))
    plain, marked, moved = (draw_photograph(photograph, 0.9, place)
                            for place in (None, (30., 40.), (120., 70.)))
    changed = np.argwhere((plain != marked).any(axis=2)).mean(axis=0)
    scale = plain.shape[1] / 150
    np.testing.assert_allclose(changed, (40 * scale, 30 * scale), atol=2)
    assert not np.array_equal(marked, moved)


def test_captions_say_how_a_block_mixes_its_affinities(explorer, photo):
    photograph = explorer[explorer.open(photo, 'photo.png')]
    place = (30., 40.)
    html = draw_blocks(photograph, place)
    for rows in photograph.rows_at(place):
        mixture = rows.mixture
        assert f'<h4>{mixture.layer}<small>' in html
        if mixture.learned:
            assert f'&alpha; = {mixture.alpha:.3f} dynamic' in html
            assert f'&beta; = {mixture.beta:.3f} static' in html
            assert f'{mixture.alpha:.3g} dynamic + {mixture.beta:.3g} static' in html
            mixed = mixture.alpha * rows.maps['dynamic'] + mixture.beta * rows.maps['static']
            np.testing.assert_allclose(rows.maps['mixed'], mixed, rtol=1e-4, atol=1e-7)
    assert html.count('<span>&alpha; = 0</span><span>&beta; = 1</span>') == 3
    assert html.index('Stage 4') < html.index('Stage 1')
    assert html.count('--photo: url(') == 1


@pytest.mark.parametrize('kind', ['L', 'RGBA', 'P', 'LA', 'I;16', 'CMYK', '1'])
def test_every_kind_of_picture(explorer, tmp_path, kind):
    path = tmp_path / ('photo.jpg' if kind == 'CMYK' else 'photo.png')
    picture = Image.fromarray(scene(61, 87))
    if kind == 'I;16':
        Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 257).save(path)
    else:
        picture.convert(kind).save(path)
    photograph = explorer[explorer.open(path, path.name)]
    assert (photograph.found.height, photograph.found.width) == (61, 87)
    assert draw_photograph(photograph, 0.5, (86.9, 60.9)).shape[2] == 3
    assert len(pictures(draw_blocks(photograph, (86.9, 60.9)))) == 9


def test_a_turned_photograph_is_upright(explorer, tmp_path):
    """What lies at the upper left of the upright picture is meant by a click there."""
    upright = Image.fromarray(scene())
    for name, orientation, stored in (('plain.png', None, upright),
                                      ('turned.png', 6, upright.transpose(Image.ROTATE_90))):
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        stored.save(tmp_path / name, exif=exif)
    plain, turned = (explorer[explorer.open(tmp_path / name, name)]
                     for name in ('plain.png', 'turned.png'))
    assert (turned.found.height, turned.found.width) == turned.image.file_size == (90, 150)
    np.testing.assert_array_equal(plain.pixels, turned.pixels)
    assert pictures(draw_blocks(plain, (30., 20.))) == pictures(draw_blocks(turned, (30., 20.)))
    np.testing.assert_array_equal(plain.image.picture, turned.image.picture)


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('empty.jpg', b'', 'empty.jpg is empty: 0 bytes'),
    ('notes.jpg', b'This is no picture. ' * 40, 'notes.jpg: cannot be read as an image'),
    ('photo.png', b'\x89PNG\r\n\x1a\n' + bytes(100), 'photo.png: cannot be read as an image'),
    ('page.svg', b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'cannot be read as an image')])
def test_what_is_no_photograph(explorer, tmp_path, name, content, message):
    path = tmp_path / 'upload'
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        explorer.open(path, name)


def test_truncated_and_huge_photographs(models, tmp_path, photo):
    cfg, model = models()
    explorer = Explorer(Detector.from_model(model, cfg), max_pixels=90 * 150 - 1)
    with pytest.raises(UserError, match='photo.png: 150 x 90 are 0 million pixels, and this page '
                                        'allows 0.0135 million'):
        explorer.open(photo, 'photo.png')
    path = tmp_path / 'photo.jpg'
    Image.fromarray(scene(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match='photo.jpg: truncated'):
        explorer.open(path, 'photo.jpg')


def test_only_the_last_photographs_are_kept(explorer, photo):
    keys = [explorer.open(photo, 'photo.png') for _ in range(3)]
    assert explorer[keys[1]] is not explorer[keys[2]]
    with pytest.raises(UserError, match='Only the last 2 photographs are kept'):
        explorer[keys[0]]


def test_the_smallest_box_at_a_point_is_meant(explorer, photo):
    photograph = explorer[explorer.open(photo, 'photo.png')]
    for place in ((30., 40.), (110., 60.)):
        number = photograph.object_at(place, 0.)
        areas = {}
        for index, one in enumerate(photograph.found):
            x1, y1, x2, y2 = one.bbox
            if x1 <= place[0] <= x2 and y1 <= place[1] <= y2:
                areas[index] = (x2 - x1) * (y2 - y1)
        assert number == min(areas, key=areas.get)
    assert photograph.object_at((30., 40.), 1.) is None


def test_the_query_of_an_object(smca, photo):
    """Its number is that of the score the object has, and its maps are those of the query."""
    photograph = smca[smca.open(photo, 'photo.png')]
    assert smca.has_queries and len(photograph.queries) == 2
    last = photograph.queries[-1]
    lines = [photograph.query_of(number) for number in range(len(photograph.found))]
    assert len(set(lines)) > 3
    for line, one in zip(lines, photograph.found):
        assert one.score <= last.scores[line] + 1e-6
        if one.label == last.labels[line]:
            assert one.score == pytest.approx(float(last.scores[line]), abs=1e-5)
    for line, one in zip(lines, photograph.found):
        box = photograph.image.geometry.to_file(last.boxes[line].reshape(2, 2)).ravel()
        np.testing.assert_allclose(box.clip(0, (150, 90, 150, 90)), one.bbox, atol=0.01)
    # Two objects of different queries.
    second = next(number for number, line in enumerate(lines) if line != lines[0])
    html, other = (draw_query(photograph, number) for number in (0, second))
    assert len(pictures(html)) == 2 * 3
    assert all(map(str.__ne__, pictures(html), pictures(other)))
    assert f'Query {last.queries[lines[0]]} ' in html
    assert html.count('mc-star') == html.count('mc-box') == 2 * 3
    assert html.count('mc-dot') == 2 * 3 * 8  # heads
    assert 'bar <b>' not in html + other
    assert pictures(draw_query(photograph, None)) == []


def test_backbones_of_other_families_and_packages(models, photo, monkeypatch):
    cfg, model = models()
    explorer = Explorer(Detector.from_model(model, cfg))
    for backbone, number, words in (
            (CoTNet(dict(CoTNet.arch_settings['cotnet-50'], depths=(1, 1, 1, 1))), 4,
             ('window of 3 x 3', 'The channel-mixing 3 x 3 convolution is no affinity')),
            (CoAtNet(dict(CoAtNet.arch_settings['coatnet-0'], depths=(1, 1, 1, 1))), 2 * 3,
             ('softmax of the content', 'softmax of the relative position',
              'one softmax of both'))):
        small = model.backbone
        # The detector goes on with the maps of its own backbone.
        with monkeypatch.context() as patch:
            patch.setitem(model._modules, 'backbone', backbone.eval())
            patch.setattr(model, 'extract_feat', lambda x, small=small: (
                model.backbone(x), model.neck(small(x)))[1])
            photograph = explorer[explorer.open(photo, 'photo.png')]
        html, other = (draw_blocks(photograph, place) for place in ((30., 40.), (120., 70.)))
        assert len(pictures(html)) == number
        assert all(map(str.__ne__, pictures(html), pictures(other)))
        assert all(text in html for text in words)
    photograph.blocks = []
    assert 'No block of this backbone' in draw_blocks(photograph, (30., 40.))


def test_every_block_says_how_big_its_cells_are(models, photo, monkeypatch):
    """Where SE-CoTNetD-152 pools behind a layer, the layer's cells are half those of its stage."""
    cfg, model = models()
    arch = dict(CoTNet.arch_settings['se-cotnetd-152'], depths=(1, 1, 3, 2))
    backbone, small = CoTNet(arch).eval(), model.backbone
    explorer = Explorer(Detector.from_model(model, cfg))
    with monkeypatch.context() as patch:
        patch.setitem(model._modules, 'backbone', backbone)
        patch.setattr(model, 'extract_feat', lambda x: (backbone(x), model.neck(small(x)))[1])
        photograph = explorer[explorer.open(photo, 'photo.png')]
    strides = {block.layer: block.stride for block in photograph.blocks}
    html = draw_blocks(photograph, (3., 4.))
    found = dict(re.findall(r'<h4>(\S+)<small>cells of (\d+) x \2 pixels', html))
    assert {name: int(stride) for name, stride in found.items()} == strides
    assert strides == {'layer3.0': 8, 'layer3.2': 16, 'layer4.0': 16, 'layer4.1': 32}


def test_names_of_classes_are_no_markup(smca, photo):
    photograph = smca[smca.open(photo, 'photo.png')]
    labelled = next(number for number, one in enumerate(photograph.found)
                    if one.class_name == CLASSES[1])
    assert 'bar &lt;b&gt;' in draw_query(photograph, labelled)
