"""Computing again: the same value and gradients as the plain computation, and less kept in between."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import info_nce
from tamis.recompute import by_rows, cached_loss


class Encoder(torch.nn.Module):
    """A small network with dropout that remembers which of its activations are alive."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(6, 8).double(), torch.nn.Linear(8, 4).double()
        self.dropout = dropout
        self.hidden: list[weakref.ref[torch.Tensor]] = []
        self.most_alive = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.dropout(torch.tanh(self.first(x)), self.dropout)
        self.hidden.append(weakref.ref(hidden))
        self.most_alive = max(self.most_alive, sum(h() is not None for h in self.hidden))
        return self.second(hidden)


def inputs(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(encoder: Encoder) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    return found


def both(encoder):
    """Embeds queries and passages of one mini-batch."""
    return lambda batch: (encoder(batch[0]), encoder(batch[1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12))
def test_chunks_equal_the_plain_loss(rows, chunk):
    """Any chunk size gives the value and the gradients of one piece."""
    q, c = inputs(rows).requires_grad_(), inputs(rows + 2, seed=1).requires_grad_()
    plain, chunked = info_nce(q, c), info_nce(q, c, chunk_rows=chunk)
    assert torch.allclose(plain, chunked, atol=1e-12)
    for a, b in zip(torch.autograd.grad(plain, (q, c)), torch.autograd.grad(chunked, (q, c)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_chunks_keep_no_scores():
    """After the forward pass no chunk's scores are alive, and in the backward pass one chunk's at a time."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    x = inputs(8).requires_grad_()

    def squares(rows: slice) -> tuple[torch.Tensor]:
        nonlocal most
        scores = (x[rows] @ x.T).exp()
        alive.append(weakref.ref(scores))
        most = max(most, sum(s() is not None for s in alive))
        return (scores.square().sum(1).tanh(),)  # the last step needs its result again, so all is computed twice

    (total,) = by_rows(squares, 8, chunk_rows=2)
    assert not any(s() is not None for s in alive)
    total.sum().backward()
    assert len(alive) == 8, "four chunks, each computed twice"
    assert most == 1


def test_chunks_need_a_row():
    """Chunks of no rows are refused."""
    with pytest.raises(ValueError, match="chunk_rows must be at least 1: got 0"):
        by_rows(lambda rows: (torch.zeros(3)[rows],), 3, chunk_rows=0)


@pytest.mark.parametrize("sizes", [[6], [2, 2, 2], [1, 4, 1]])
def test_cached_loss_equals_the_plain_loss(sizes):
    """Value and gradients of all parameters are those of embedding everything at once, however it is cut."""
    encoder, q, c = Encoder(), inputs(6), inputs(6, seed=1)
    plain = info_nce(encoder(q), encoder(c))
    plain.backward()
    want = gradients(encoder)
    cached = cached_loss(both(encoder), list(zip(q.split(sizes), c.split(sizes), strict=True)), info_nce)
    cached.backward()
    assert torch.allclose(plain, cached, atol=1e-12)
    for a, b in zip(want, gradients(encoder), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_cached_loss_scales_with_what_comes_from_above():
    """A factor on the loss, as loss scaling puts there, reaches the parameters."""
    encoder, batches = Encoder(), [(inputs(3), inputs(3, seed=1)), (inputs(3, seed=2), inputs(3, seed=3))]
    cached_loss(both(encoder), batches, info_nce).backward()
    once = gradients(encoder)
    (4 * cached_loss(both(encoder), batches, info_nce)).backward()
    for a, b in zip(once, gradients(encoder), strict=True):
        assert torch.allclose(4 * a, b, atol=1e-12)


def test_cached_loss_draws_the_same_dropout():
    """Each mini-batch is embedded again with the random numbers it had, and the global generator moves on as usual."""
    batches = list(inputs(6).split(2))
    encoder = Encoder(dropout=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = torch.cat([encoder(b) for b in batches]).pow(2).sum()
        plain.backward()
        want, after = gradients(encoder), torch.get_rng_state()
        torch.manual_seed(3)
        cached = cached_loss(encoder, batches, lambda e: e.pow(2).sum())
        cached.backward()
        assert torch.equal(torch.get_rng_state(), after)
    assert torch.allclose(plain, cached, atol=1e-12)
    for a, b in zip(want, gradients(encoder), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_cached_loss_keeps_one_mini_batch():
    """Activations of no mini-batch outlive the forward pass; later at most one mini-batch's are alive."""
    encoder = Encoder()
    loss = cached_loss(encoder, list(inputs(12).split(2)), lambda e: e.pow(2).sum())
    assert not any(h() is not None for h in encoder.hidden)
    loss.backward()
    assert len(encoder.hidden) == 12, "six mini-batches, each embedded twice"
    assert encoder.most_alive == 1


def test_a_loss_may_learn_too():
    """A temperature inside the loss gets its gradient."""
    encoder, batches = Encoder(), [(inputs(3), inputs(3, seed=1)), (inputs(3, seed=2), inputs(3, seed=3))]
    found = []
    for run in (
        lambda t: cached_loss(both(encoder), batches, lambda q, c: info_nce(q, c, temperature=t)),
        lambda t: info_nce(*(encoder(torch.cat(x)) for x in zip(*batches, strict=True)), temperature=t),
    ):
        temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        run(temperature).backward()
        found.append(temperature.grad.item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_without_gradients_there_is_only_the_value():
    """Under no_grad the value comes back and nothing is embedded twice."""
    encoder, batches = Encoder(), list(inputs(6).split(2))
    with torch.no_grad():
        value = cached_loss(encoder, batches, lambda e: e.sum())
    assert not value.requires_grad and len(encoder.hidden) == 3


def test_no_mini_batches():
    """An empty list is refused."""
    with pytest.raises(ValueError, match="batches must hold at least one mini-batch: got none"):
        cached_loss(Encoder(), [], lambda e: e.sum())
