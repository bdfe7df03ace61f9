"""The guide's mask and its slope: ties, margins, protection, and the slope's limit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.guide_mask import false_negative_mask, soft_false_negative_mask


def test_false_negative_mask_is_strict_and_row_wise():
    """A tie stays; row i is judged by threshold i alone."""
    guide = torch.tensor([[0.5, 0.5], [0.5, 0.6]])
    assert false_negative_mask(guide, torch.tensor([0.5, 0.5])).tolist() == [[False, False], [False, True]]
    assert false_negative_mask(guide, torch.tensor([0.4, 0.7])).tolist() == [[True, True], [False, False]]


def test_false_negative_margins():
    """Absolute subtracts, relative takes a share, and where the threshold is not positive relative subtracts too."""
    guide = torch.tensor([[0.75, 0.65], [-0.35, -0.25]], dtype=torch.float64)
    threshold = torch.tensor([0.8, -0.2], dtype=torch.float64)
    absolute = false_negative_mask(guide, threshold, margin=0.1)
    relative = false_negative_mask(guide, threshold, margin=0.1, strategy="relative")
    assert absolute.tolist() == [[True, False], [False, True]]
    assert relative.tolist() == [[True, False], [False, True]]
    wider = false_negative_mask(guide, threshold, margin=0.2, strategy="relative")
    assert wider.tolist() == [[True, True], [True, True]]  # 0.64; -0.4, where a factor would have given -0.16


def test_false_negative_mask_protects():
    """A protected column is never dropped, whatever the margin."""
    guide = torch.full((2, 3), 0.9)
    mask = false_negative_mask(guide, torch.tensor([0.9, 0.9]), margin=0.5, protect=torch.tensor([2, 0]))
    assert mask.tolist() == [[True, True, False], [False, True, True]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["absolute", "relative"]))
def test_a_larger_margin_drops_more(seed, small, step, strategy):
    """What a margin drops, every larger margin drops."""
    guide = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    threshold = guide[:, 0]
    less = false_negative_mask(guide, threshold, small, strategy)
    more = false_negative_mask(guide, threshold, small + step, strategy)
    assert not (less & ~more).any()


def test_bad_masks():
    """Unknown strategy, negative margin and thresholds that do not fit are refused."""
    with pytest.raises(ValueError, match="margin_strategy must be one of 'absolute', 'relative': got 'share'"):
        false_negative_mask(torch.zeros(2, 2), torch.zeros(2), strategy="share")
    with pytest.raises(ValueError, match=r"margin must be at least 0.0: got -0.1"):
        false_negative_mask(torch.zeros(2, 2), torch.zeros(2), margin=-0.1)
    with pytest.raises(ValueError, match="threshold must have one entry per row of guide_sim: 2 rows, 3"):
        false_negative_mask(torch.zeros(2, 2), torch.zeros(3))


def transcription(guide, threshold, softness, margin, strategy):
    """Log-weights, one candidate after the other."""
    rows = []
    for row, t in zip(guide.tolist(), threshold.tolist(), strict=True):
        ceiling = t * (1 - margin) if strategy == "relative" and t > 0 else t - margin
        excess = [max(0.0, g - ceiling) for g in row]
        rows.append([-e / softness if softness else (-math.inf if e > 0 else 0.0) for e in excess])
    return torch.tensor(rows, dtype=guide.dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 0.3]), st.floats(0, 1), st.sampled_from(["absolute", "relative"])
)
def test_the_slope_by_hand(seed, softness, margin, strategy):
    """The slope is the excess over the softness, in every cell."""
    guide = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    threshold = guide[:, 0]
    found = soft_false_negative_mask(guide, threshold, softness, margin, strategy)
    torch.testing.assert_close(found, transcription(guide, threshold, softness, margin, strategy))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1), st.floats(1e-3, 1))
def test_the_slope_spares_what_the_mask_spares(seed, softness, more):
    """Candidates that the mask keeps are untouched, the others lose weight, and less of it when the slope is wider."""
    guide = torch.rand(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    mask = false_negative_mask(guide, guide[:, 0])
    steep, wide = (soft_false_negative_mask(guide, guide[:, 0], s) for s in (softness, softness + more))
    assert ((steep < 0) == mask).all() and (steep <= wide).all() and (wide <= 0).all()


def test_the_limit_is_the_mask():
    """Without width the slope is the mask, ties included; with very little it is numerically the same."""
    guide = torch.tensor([[0.5, 0.6, 0.4]], dtype=torch.float64)
    threshold = torch.tensor([0.5], dtype=torch.float64)
    assert soft_false_negative_mask(guide, threshold, 0.0).tolist() == [[0.0, -math.inf, 0.0]]
    assert soft_false_negative_mask(guide, threshold, 1e-6).exp().tolist() == [[1.0, 0.0, 1.0]]


def test_the_slope_protects_and_has_no_gradient():
    """A protected column keeps its weight, and neither guide nor threshold receives a gradient."""
    guide = torch.full((2, 3), 0.9, requires_grad=True)
    weights = soft_false_negative_mask(guide, guide[:, 0], 0.1, margin=0.5, protect=torch.tensor([2, 0]))
    assert weights[0, 2] == 0 and weights[1, 0] == 0 and not weights.requires_grad
    assert guide.grad is None and torch.allclose(weights[0, :2], torch.tensor(-5.0))


def test_a_bad_softness():
    """A negative width is refused."""
    with pytest.raises(ValueError, match=r"softness must be at least 0.0: got -1.0"):
        soft_false_negative_mask(torch.zeros(2, 2), torch.zeros(2), -1.0)
