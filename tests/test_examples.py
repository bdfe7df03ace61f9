"""Examples: they run, and the decisions of five methods add up on one batch and on one mined set."""

from __future__ import annotations

import importlib.util
from itertools import permutations
from pathlib import Path

import pytest
import torch

from tamis.contrastive import info_nce

EXAMPLE = Path(__file__).parent.parent / "examples" / "compose_negatives.py"


@pytest.fixture(scope="module")
def compose():
    spec = importlib.util.spec_from_file_location("compose_negatives", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_order_of_decisions_does_not_matter(compose):
    """Any order of the five gives the same sum, with the same candidates dropped."""
    rules, _, _ = compose.decisions(1)
    sums = [torch.stack([rules[name] for name in order]).sum(0) for order in permutations(rules)]
    for other in sums[1:]:
        assert torch.equal(torch.isneginf(sums[0]), torch.isneginf(other))
        assert torch.allclose(sums[0].exp(), other.exp(), atol=1e-6)
    dropped = torch.stack([torch.isneginf(r) for r in rules.values()]).any(0)
    assert torch.equal(dropped, torch.isneginf(sums[0]))


def test_the_sum_in_a_batch(compose):
    """The loss under the sum is that of the exponentials multiplied by every method's weight, written out."""
    rules, scores, own = compose.decisions(2)
    queries, passages, _ = compose.world(2)
    together = torch.stack(list(rules.values())).sum(0)
    weight = torch.stack([r.exp() for r in rules.values()]).prod(0).scatter(1, own[:, None], 1.0)
    logits = scores / 0.05
    top = logits.max(1, keepdim=True).values
    expected = (weight * (logits - top).exp()).sum(1).log() + top[:, 0] - logits.gather(1, own[:, None])[:, 0]
    ours = info_nce(queries, passages, positive_columns=own, log_weights=together, reduction="none")
    assert torch.allclose(ours, expected, atol=1e-4)


def test_it_tells_what_it_did(compose, capsys):
    """Run as a script it prints a smaller share of hidden answers with the five decisions than without."""
    compose.main()
    out = capsys.readouterr().out
    shares = [float(line.split(": ")[1].split("%")[0]) for line in out.splitlines() if line.startswith("mined")]
    assert shares[1] < 0.2 * shares[0]
