import pytest
import torch
from mmengine.registry import MODELS

import mmcontainer  # noqa: F401


@pytest.fixture
def neck():
    return MODELS.build(dict(type='DropoutNeck', p=0.25))


def test_drops_in_training_every_value_for_itself(neck):
    torch.manual_seed(0)
    maps = torch.ones(4, 500), torch.ones(2, 3, 10, 10)
    dropped = neck.train()(maps)
    assert isinstance(dropped, tuple) and [x.shape for x in dropped] == [x.shape for x in maps]
    for x in dropped:
        assert x.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert (x == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_changes_nothing_in_evaluation(neck):
    maps = [torch.rand(2, 8)]
    assert torch.equal(neck.eval()(maps)[0], maps[0])
