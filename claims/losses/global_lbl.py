"""Global-batch load balancing on four domains: what does it cost to balance experts within each sequence?

A sequence of 32 tokens belongs to one of four domains, each with a centre and a linear map that the model has to learn.
The model is a mixture of eight linear experts behind a linear router, two per token. A step sees 16 sequences, and one
sequence is one micro-batch. Without balancing, with shares of each micro-batch, and with shares of the global batch:
the error on fresh sequences, the mutual information of domain and expert, and the largest load (1 is perfect balance).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.losses import expert_specialization, load_balancing_loss

CLAIM = Claim(
    metric="mutual information of domain and expert (nats)",
    method="information_global",
    baseline="information_micro",
    at_least=0.08,
    seeds=5,
    gates=(
        Gate(
            says="the squared error of global is below 0.75 of that of micro",
            higher="three_quarters_of_error_micro",
            lower="error_global",
            at_least=1e-9,
        ),
    ),
)
DOMAINS, DIM, EXPERTS, TOP_K, LENGTH, SEQUENCES, STEPS, ALPHA = 4, 16, 8, 2, 32, 16, 600, 0.1
SEGMENTS = torch.arange(SEQUENCES).repeat_interleave(LENGTH)


def no_balance(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.new_zeros(())


def micro(logits: Tensor, chosen: Tensor) -> Tensor:
    return load_balancing_loss(logits, chosen, num_experts=EXPERTS, top_k=TOP_K, scope="sequence", segment_ids=SEGMENTS)


def pooled(logits: Tensor, chosen: Tensor) -> Tensor:
    return load_balancing_loss(logits, chosen, num_experts=EXPERTS, top_k=TOP_K, scope="global")


ARMS = {"none": no_balance, "micro": micro, "global": pooled}


class Mixture(nn.Module):
    """A linear router and eight linear experts, two per token, their weights made to sum to one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.router = nn.Parameter(0.02 * torch.randn(DIM, EXPERTS, generator=rng))
        self.experts = nn.Parameter(torch.randn(EXPERTS, DIM, DIM, generator=rng) / DIM**0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (t, 16), router logits (t, 8) and chosen experts (t, 2)."""
        logits = x @ self.router
        weights, chosen = torch.softmax(logits, 1).topk(TOP_K, 1)
        gates = torch.zeros_like(logits).scatter(1, chosen, weights / weights.sum(1, keepdim=True))
        return torch.einsum("te,eto->to", gates, x @ self.experts), logits, chosen


class Sequences:
    """Sequences of one domain each: tokens, targets and domains."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.centres = torch.randn(DOMAINS, DIM, generator=self.rng)
        self.maps = torch.randn(DOMAINS, DIM, DIM, generator=self.rng) / DIM**0.5

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n * 32, 16), targets (n * 32, 16) and domains (n * 32,)."""
        domains = torch.randint(DOMAINS, (n,), generator=self.rng)
        x = self.centres[domains][:, None] + torch.randn(n, LENGTH, DIM, generator=self.rng)
        y = torch.bmm(x, self.maps[domains])
        return x.flatten(0, 1), y.flatten(0, 1), domains.repeat_interleave(LENGTH)


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found = {}
    for arm, balance in ARMS.items():
        data, model = Sequences(seed), Mixture(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(STEPS):
            x, y, _ = data.draw(SEQUENCES)
            out, logits, chosen = model(x)
            optimizer.zero_grad()
            ((out - y).square().mean() + ALPHA * balance(logits, chosen)).backward()
            optimizer.step()
        x, y, domains = data.draw(200)
        with torch.no_grad():
            out, _, chosen = model(x)
        measured = expert_specialization(chosen, domains, num_experts=EXPERTS)
        found[f"error_{arm}"] = float((out - y).square().mean())
        found[f"information_{arm}"] = measured["mutual_information"]
        found[f"max_load_{arm}"] = measured["max_load"]
    return found | {"three_quarters_of_error_micro": 0.75 * found["error_micro"]}
