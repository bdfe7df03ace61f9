"""MECO on the mean of a Gaussian: what does a tracked partition function give when a step has two noise samples?

Data are N(3, 1), the model is l(x) = theta x - x^2 / 2 with theta from 0, the noise is N(0, 16). Batches of 32 data and
2, 8 or 64 noise samples, 3,000 steps with an average of gradients (beta 0.1). "naive" takes each batch's own partition
function, "meco" tracks it (gamma 0.05), "true_z" is told it, "nce" is the logistic loss with a learned constant.
Each arm has the step size out of five that ends nearest; errors |theta - 3| are means over steps 200 to 300 ("early"),
900 to 1,000 ("middle") and the last 500 ("final").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tamis.claim import Claim, Gate
from tamis.losses import CompositionalNLLLoss, nce_loss

CLAIM = Claim(
    metric="minus the final error of theta with two noise samples per step",
    method="minus_final_meco_2",
    baseline="minus_final_naive_2",
    at_least=0.8,
    seeds=5,
    gates=(
        Gate(says="two samples: the final error of meco is below 0.2", higher="minus_final_meco_2", at_least=-0.2),
        Gate(says="two samples: the final error of naive is above 1", higher="final_naive_2", at_least=1.0),
        Gate(
            says="two samples: at step 1,000 the error of meco is below half of that of nce",
            higher="half_of_middle_nce_2",
            lower="middle_meco_2",
        ),
        Gate(
            says="eight samples: the final error of meco is below half of that of naive",
            higher="half_of_final_naive_8",
            lower="final_meco_8",
        ),
    ),
)
RATES = torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0], dtype=torch.float64)
DATA, STEPS, BETA, SCALE = 32, 3000, 0.1, 4.0
WINDOWS = {"early": slice(200, 300), "middle": slice(900, 1000), "final": slice(2500, 3000)}


def errors(arm: str, noise: int, seed: int) -> Tensor:
    """|theta - 3| after every step (3000, 5), one column for each step size; all columns see the same samples."""
    rng = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(STEPS, DATA, generator=rng, dtype=torch.float64)
    z = SCALE * torch.randn(STEPS, noise, generator=rng, dtype=torch.float64)
    log_q = -((z / SCALE) ** 2) / 2 - math.log(SCALE * math.sqrt(2 * math.pi))
    log_p = -((x / SCALE) ** 2) / 2 - math.log(SCALE * math.sqrt(2 * math.pi))
    # Rows are step sizes: five runs side by side, each with a partition function of its own.
    blocks = torch.arange(len(RATES))
    loss = CompositionalNLLLoss(1.0 if arm == "naive" else 0.05, len(RATES))
    theta = torch.zeros(len(RATES), 2, dtype=torch.float64, requires_grad=True)  # and NCE's constant, learned like it
    average, found = torch.zeros_like(theta), torch.empty(STEPS, len(RATES), dtype=torch.float64)
    for t in range(STEPS):
        mean, constant = theta[:, :1], theta[:, 1:]
        if arm == "nce":
            data = mean * x[t] - x[t] ** 2 / 2 - constant - log_p[t]
            other = mean * z[t] - z[t] ** 2 / 2 - constant - log_q[t]
            value = sum(nce_loss(a, b) for a, b in zip(data, other, strict=True))
        else:
            data = (mean * x[t] - x[t] ** 2 / 2).mean(1)
            other = mean * z[t] - z[t] ** 2 / 2
            log_z = theta[:, 0].detach() ** 2 / 2 + math.log(2 * math.pi) / 2 if arm == "true_z" else None
            value = len(RATES) * loss(data, other, log_q[t].expand_as(other), blocks, log_z=log_z)
        (gradient,) = torch.autograd.grad(value, theta)
        average = (1 - BETA) * average + BETA * gradient
        with torch.no_grad():
            theta -= RATES[:, None] * average
        found[t] = (theta[:, 0].detach() - 3).abs()
    return found


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found = {}
    for noise, arms in (
        (2, ("naive", "meco", "nce", "true_z")),
        (8, ("naive", "meco", "nce")),
        (64, ("naive", "meco", "nce")),
    ):
        for arm in arms:
            every = errors(arm, noise, seed)
            best = int(every[WINDOWS["final"]].mean(0).argmin())
            for name, window in WINDOWS.items():
                found[f"{name}_{arm}_{noise}"] = float(every[window, best].mean())
    return found | {
        "minus_final_meco_2": -found["final_meco_2"],
        "minus_final_naive_2": -found["final_naive_2"],
        "half_of_middle_nce_2": found["middle_nce_2"] / 2,
        "half_of_final_naive_8": found["final_naive_8"] / 2,
    }
