"""Pictures of a training run: its curves, and its detections beside the ground truth."""
from .contact_sheet import draw_contact_sheet, predict
from .curves import draw_curves, read_scalars

__all__ = ['draw_contact_sheet', 'draw_curves', 'predict', 'read_scalars']
