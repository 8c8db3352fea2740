"""Arguments and inputs that cannot work: what is expected is said, by every backbone."""
import pytest
import torch

from mmcontainer.backbones import CoAtNet, Container, ContainerPAM, CoTNet

CLASSES = [CoAtNet, Container, CoTNet]
NAN = float('nan')


@pytest.mark.parametrize(('argument', 'value', 'expected'), [
    *[('drop_path_rate', value, 'from 0 and below 1') for value in (1., -0.1, NAN, '0.1', True)],
    *[('in_channels', value, 'whole number from 1') for value in (0, -3, '3', 2.5, None, True)],
    *[('norm_cfg', value, 'a dict with a type') for value in ('BN', None, {}, ['BN'])],
    *[('norm_cfg', dict(type=value), 'not registered') for value in ('BNN', None, 3)],
    ('norm_cfg', dict(type='BN', requires_grad='no'), 'requires_grad of norm_cfg'),
    *[('norm_cfg', value, 'can be built') for value in (
        dict(type='GN'), dict(type='GN', num_groups=0), dict(type='BN', momentun=0.1))],
    ('out_indices', 2.5, 'out_indices must be'),
])
@pytest.mark.parametrize('cls', CLASSES)
def test_bad_arguments_are_named(cls, argument, value, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        cls(**{argument: value})
    assert argument in str(caught.value)


@pytest.mark.parametrize('cls', CLASSES)
def test_legitimate_arguments_stay_so(cls):
    row = next(iter(cls.arch_settings.values()))
    model = cls({**row, 'depths': (1, 1, 1, 1)}, in_channels=1, drop_path_rate=0,
                norm_cfg=dict(type=torch.nn.BatchNorm2d)).eval()
    assert model.in_channels == 1
    with torch.no_grad():
        assert len(model(torch.zeros(1, 1, 32, 32))) == 4


@pytest.mark.parametrize(('key', 'value', 'expected'), [
    ('embed_dims', (8, 8, 8, 0), 'whole numbers from 1'),
    ('embed_dims', (8, 8, 8, '8'), 'whole numbers from 1'),
    ('embed_dims', 64, 'one value per stage'),
    ('depths', (1, 1, 1, 1.5), 'whole numbers from 1'),
    ('mlp_ratios', (1, 1, 1, -1), 'numbers above 0'),
    ('num_heads', (None, None, None, 3), 'must be a multiple of num_heads'),
    ('num_heads', (None, None, None, -2), 'whole numbers from 1, or None'),
    ('num_heads', 2, 'one value per stage'),
    ('image_size', 0, 'whole numbers from 1'),
    ('static', 'depthwise', 'a dict with a kind'),
    ('static', 5, 'a dict with a kind'),
    ('static', dict(kernel_size=5), 'a dict with a kind'),
    ('static', dict(kind='depthwise'), 'kernel_size'),
    ('static', dict(kind='depthwise', kernel_size=5, kernel=5), "unexpected .* 'kernel'"),
    ('static', dict(kind='depthwise', kernel_size=4), 'odd'),
    ('static', dict(kind='depthwise', kernel_size='5'), 'odd'),
    ('static', dict(kind='depthwise', kernel_size=5, num_heads='2'), 'multiple of num_heads'),
    ('static', dict(kind='conv', kernel_size=3, groups=5), 'multiple of groups'),
    ('static', dict(kind='low-rank', rank_ratio=2), 'rank_ratio'),
    ('static', dict(kind='convolution'), 'Unknown static affinity'),
    ('static', dict(kind=3), 'Unknown static affinity'),
])
def test_bad_rows_of_container_are_named(key, value, expected):
    row = dict(Container.arch_settings['light'], depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=expected):
        Container({**row, key: value})


def test_bad_rows_of_the_others_are_named():
    row = CoTNet.arch_settings['cotnet-50']
    with pytest.raises(ValueError, match='has 4 stages, got 3'):
        CoTNet({key: value[:3] if isinstance(value, tuple) else value
                for key, value in row.items()})
    with pytest.raises(ValueError, match="stem of an arch .*'conv7'"):
        CoTNet({**row, 'stem': 'conv3'})
    row = CoAtNet.arch_settings['coatnet-0']
    with pytest.raises(ValueError, match='block_types .* one value per stage'):
        CoAtNet({**row, 'block_types': 'CCTT'})
    with pytest.raises(ValueError, match='act of an arch .*gelu'):
        CoAtNet({**row, 'act': 'elu'})
    with pytest.raises(ValueError, match='window_size must be positive'):
        CoAtNet(window_size='7')


@pytest.mark.parametrize(('images', 'error', 'message'), [
    (torch.zeros(3, 64, 64), ValueError, r'\(batch, 3, height, width\), got \(3, 64, 64\).*\[None'),
    (torch.zeros(1, 64, 64, 3), ValueError, r'got \(1, 64, 64, 3\).*permute\(0, 3, 1, 2\)'),
    (torch.zeros(1, 1, 64, 64), ValueError, r'got \(1, 1, 64, 64\)'),
    (torch.zeros(2, 1, 3, 64, 64), ValueError, r'got \(2, 1, 3, 64, 64\)'),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, r'got torch.uint8.*\.float\(\)'),
    (torch.zeros(1, 3, 64, 64, dtype=torch.int64), TypeError, 'got torch.int64'),
    ([torch.zeros(3, 64, 64)], TypeError, 'one tensor of shape .*got list'),
    (torch.zeros(1, 3, 64, 64).numpy(), TypeError, 'got ndarray'),
])
@pytest.mark.parametrize('cls', [*CLASSES, ContainerPAM])
def test_wrong_inputs_are_named(cls, images, error, message):
    with pytest.raises(error, match=message):
        cls()(images)
