"""The published curves as data: complete, of the runs that they are said to be of, and in use."""
import pytest

from mmcontainer.errors import ConfigError
from mmcontainer.paper import load_tables
from mmcontainer.paper.curves import find_run, load_curves

SMCA = 'smca_multi_scale'
DETECTORS = ('faster_rcnn', 'cascade_rcnn', 'mask_rcnn', 'cascade_mask_rcnn')
COTNET = [(detector, name) for detector in DETECTORS
          for name in load_tables()['cotnet_coco'][detector]]
POINTS = [1000, 2000, 5000, 10000, 20000, 30000, 40000, 50000, 59999, 62000, 70000, 79999, 82000,
          89999]


def cotnet(detector, name):
    return find_run(f'{detector}/{name}_fpn_1x_coco')


def test_all_published_runs_are_there(repo_root):
    runs = load_curves()
    assert len(COTNET) == 24 and len(runs) == 24 + 4 + 2
    for name, run in runs.items():
        assert run.name == name
        # Three of the four runs of the multi-scale SMCA-DETR were with another encoder or backbone.
        assert name.startswith(f'{SMCA}/') or (repo_root / f'configs/{name}.py').is_file()


@pytest.mark.parametrize(('detector', 'name'), COTNET)
def test_final_ap_of_cotnet_is_that_of_the_tables(detector, name):
    (step, found), = cotnet(detector, name).evaluations.items()
    table = load_tables()['cotnet_coco'][detector][name]
    stated = found['bbox'] if len(found) == 1 else found['bbox'][:3] + found['segm'][:3]
    assert step == 90000 and set(found) == ({'bbox', 'segm'} if 'mask' in detector else {'bbox'})
    assert stated == pytest.approx(table, abs=0.0051)


@pytest.mark.parametrize(('detector', 'name'), COTNET)
def test_losses_of_cotnet_fall_and_are_of_one_kind_of_detector(detector, name):
    """Two logs begin with a run of another detector, which a median over the file would mix in."""
    run = cotnet(detector, name)
    assert list(run.loss) == POINTS and (run.images, run.within, run.every) == (16, 500, 20)
    for point in POINTS:
        others = sorted(cotnet(detector, other).loss[point] for kind, other in COTNET
                        if kind == detector)
        assert run.loss[point] == pytest.approx(others[len(others) // 2], rel=0.12)
    assert all(run.loss[later] < 1.04 * run.loss[point] for point, later in zip(POINTS, POINTS[1:]))


@pytest.mark.parametrize(('name', 'losses', 'ap'), [
    ('faster_rcnn/cotnet_50_fpn_1x_coco', {1000: 0.993, 10000: 0.651, 89999: 0.449}, [43.5006]),
    ('mask_rcnn/cotnet_50_fpn_1x_coco', {1000: 1.421, 40000: 0.831, 89999: 0.682},
     [44.0562, 39.2848]),
    ('cascade_rcnn/se_cotnetd_101_fpn_1x_coco', {1000: 2.772, 62000: 1.714, 89999: 1.525},
     [49.0239])])
def test_some_numbers_as_read_from_the_logs(name, losses, ap):
    run = find_run(name)
    assert {point: run.loss[point] for point in losses} == losses
    assert [values[0] for values in run.evaluations[90000].values()] == ap


@pytest.mark.parametrize(('name', 'first', 'first_ap', 'last_ap', 'last_loss'), [
    (f'{SMCA}/without_fc_bidirectional_encoder', 1, 8.68, 43.71, 6.5),
    (f'{SMCA}/with_fc_bidirectional_encoder_no_shared_cross_resnet101', 1, 10.27, 45.68, 6.19),
    ('detr/multi_scale_smca_detr_r50_50e_coco', 1, 9.35, 44.4, 6.42),
    (f'{SMCA}/with_fc_bidirectional_encoder_no_shared_cross_continue', 21, 35.61, 44.26, 6.44)])
def test_smca_has_every_epoch(name, first, first_ap, last_ap, last_loss):
    run = find_run(name)
    epochs = list(range(first, 51))
    assert run.by_epoch and list(run.loss) == list(run.evaluations) == epochs
    assert run.evaluations[first]['bbox'] == (first_ap, )
    assert run.evaluations[50]['bbox'] == (last_ap, )
    assert run.loss[50] == last_loss == min(run.loss.values())


def test_final_ap_of_the_resnet_twins_is_that_of_the_table():
    tables = load_tables()['detection_1x']
    retina = find_run('retinanet/r50_fpn_1x_coco').evaluations
    mask = find_run('mask_rcnn/r50_fpn_1x_coco').evaluations
    assert retina == {12: {'bbox': (tables['retinanet']['r50']['AP'], )}}
    assert mask == {12: {'bbox': (tables['mask_rcnn']['r50']['bbox'][0], ),
                         'segm': (tables['mask_rcnn']['r50']['mask'][0], )}}


def test_an_unknown_run_is_a_message_with_what_comes_close():
    with pytest.raises(ConfigError, match='mask_rcnn/cotnet_50_fpn_1x_coco'):
        find_run('mask_rcnn/cotnet_50_fpn_1x')
