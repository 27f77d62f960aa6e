"""Sweeps: one command, a run for each combination of values, and what became of them."""

from lmtrain.sweep.points import Point, spread
from lmtrain.sweep.sweep import Sweep

__all__ = ["Point", "Sweep", "spread"]
