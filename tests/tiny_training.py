"""The smallest data set and model that a Runner trains and validates."""
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset


class Numbers(Dataset):
    """Two rows of three numbers."""
    metainfo = {}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.ones(3)


class Model(BaseModel):
    """One layer, whose output is the loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, *rows, mode='tensor'):
        out = self.layer(torch.stack(rows))
        return [dict(out=out)] if mode == 'predict' else dict(loss=out.sin().mean())
