"""Measuring models."""
from .flops import FlopCount, count_flops

__all__ = ['FlopCount', 'count_flops']
