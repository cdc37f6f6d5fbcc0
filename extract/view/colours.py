"""Colours of classes and curves: Okabe and Ito's, which colour-blind readers tell apart, and grey for the rest."""

from __future__ import annotations

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OTHERS = "#BBBBBB"
