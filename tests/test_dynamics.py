"""Training dynamics: worked numbers, one visit at a time as oracle, and batches that do not show."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.dynamics import Dynamics, el2n, margin, per_sample_loss


def correct(history) -> Dynamics:
    """One sample that was right or wrong in turn."""
    dynamics = Dynamics(1)
    for right in history:
        dynamics.record([0], np.array([[1.0, 0.0]]) if right else np.array([[0.0, 1.0]]), [0])
    return dynamics


def test_worked_numbers():
    """EL2N, forgetting and AUM of the specification."""
    assert el2n(np.array([[0.7, 0.2, 0.1]]), [2], probabilities=True).tolist() == pytest.approx([1.157584], abs=5e-7)
    probs = np.log([[0.7, 0.2, 0.1]])
    assert el2n(probs, np.array([0])).tolist() == pytest.approx([0.374166], abs=5e-7)
    assert el2n(probs, np.array([2])).tolist() == pytest.approx([1.157584], abs=5e-7)
    assert [correct(h).forgetting[0] for h in ([0, 1, 1, 0, 1, 0], [0, 0, 0], [1, 1, 1])] == [2, math.inf, 0]
    dynamics = Dynamics(1)
    dynamics.record([0, 0], np.array([[2.0, 1, 0], [1, 3, 0]]), [0, 0])
    assert dynamics.aum.tolist() == [-0.5]


def test_losses_are_torchs():
    """Cross-entropy should be torch's, also where logits are far apart, and tensors be taken."""
    logits = torch.tensor([[1000.0, 0.0], [0.3, -0.2], [0.0, 800.0]])
    labels = torch.tensor([0, 1, 0])
    expected = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    assert per_sample_loss(logits, labels).tolist() == pytest.approx(expected.tolist())


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), visits=st.integers(0, 30), classes=st.integers(2, 4),
    batch=st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_agrees_with_single_visits(seed, n, visits, classes, batch):
    """However visits are batched, every number should be that of a list of visits per sample."""
    rng = np.random.default_rng(seed)
    rows, labels = rng.integers(n, size=visits), rng.integers(classes, size=visits)
    logits = rng.integers(-2, 3, (visits, classes)).astype(float)
    dynamics = Dynamics(n)
    for start in range(0, visits, batch):
        piece = slice(start, start + batch)
        dynamics.record(rows[piece], torch.tensor(logits[piece]), labels[piece])
        resumed = Dynamics(n)
        resumed.load_state_dict(pickle.loads(pickle.dumps(dynamics.state_dict())))
        dynamics = resumed
    for sample in range(n):
        mine = [i for i in range(visits) if rows[i] == sample]
        assert dynamics.visits[sample] == len(mine)
        if not mine:
            assert math.isnan(dynamics.aum[sample])
            assert dynamics.forgetting[sample] == math.inf
            continue
        gaps = [logits[i, labels[i]] - max(np.delete(logits[i], labels[i])) for i in mine]
        sure = [math.exp(logits[i, labels[i]]) / sum(math.exp(z) for z in logits[i]) for i in mine]
        right = [gap > 0 for gap in gaps]
        falls = sum(a and not b for a, b in itertools.pairwise(right))
        assert dynamics.forgetting[sample] == (falls if any(right) else math.inf)
        assert dynamics.aum[sample] == pytest.approx(np.mean(gaps))
        assert dynamics.confidence[sample] == pytest.approx(np.mean(sure))
        assert dynamics.variability[sample] == pytest.approx(np.std(sure), abs=1e-7)
        assert dynamics.mean_loss[sample] == pytest.approx(-np.mean(np.log(sure)))
        assert dynamics.mean_el2n[sample] == pytest.approx(np.mean([el2n(logits[[i]], labels[[i]])[0] for i in mine]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: el2n(np.ones((2, 2)), [0, 2]), "labels must lie between 0 and 1: got 0 to 2"),
        (lambda: el2n(np.ones((2, 2)), [0]), "labels must have one entry per row of logits"),
        (lambda: el2n(np.ones((2, 2)), [0.0, 1.0]), "labels must be integers"),
        (lambda: el2n(np.ones((2, 2)), [0, 1], probabilities=True), "add up to 1 in every row: row 0 does not"),
        (lambda: margin(np.ones((2, 1)), [0, 0]), "at least 2 classes"),
        (lambda: per_sample_loss(np.full((1, 2), math.nan), [0]), "logits must be finite"),
        (lambda: Dynamics(0), "n must be at least 1"),
        (lambda: Dynamics(2).record([2], np.ones((1, 2)), [0]), "indices must be samples, 0 to 1: got 2 to 2"),
        (lambda: Dynamics(2).record([0, 1], np.ones((1, 2)), [0]), "indices must have one entry per row of logits"),
        (lambda: Dynamics(2).load_state_dict(Dynamics(3).state_dict()), "state must be of 2 samples: got 3"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
