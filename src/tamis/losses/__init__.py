"""Losses: how much each counts."""

from tamis.losses.gistembed import GISTEmbedLoss as GISTEmbedLoss
