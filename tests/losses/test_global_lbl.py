"""Global-batch load balancing: the worked numbers, a transcription in loops, two ranks, and what must always hold."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from tamis.losses import ExpertLoadTracker, expert_specialization, load_balancing_loss
from tests.behaviour import ArrayCase, LossCase

FIRST = torch.tensor([[0.9, 0.1], [0.8, 0.2]], dtype=torch.float64)
SECOND = torch.tensor([[0.3, 0.7], [0.1, 0.9]], dtype=torch.float64)
FOUR = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.4, 0.5, 0.1]], dtype=torch.float64)
PROBS = {"scores": "probabilities"}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mask(t, seed=0, share=0.7):
    return torch.rand(t, generator=torch.Generator().manual_seed(seed)) < share


def make(seed: int) -> list:
    """Cases for the shared checks: three scopes of pooling, and the measures of specialisation."""
    logits, segments = randn(12, 5, seed=seed), torch.arange(12) // 4
    frequency = torch.softmax(randn(5, seed=seed + 1), 0)
    options = {"num_experts": 5, "top_k": 2}
    rng = np.random.default_rng(seed)
    return [
        LossCase("load_balancing_loss", lambda x: load_balancing_loss(x, **options), (logits,)),
        LossCase(
            "load_balancing_loss by sequence",
            lambda x: load_balancing_loss(x, **options, scope="sequence", segment_ids=segments),
            (logits,),
        ),
        LossCase(
            "load_balancing_loss with a frequency",
            lambda x: load_balancing_loss(x, **options, scope="global", selection_frequency=frequency),
            (logits,),
            (frequency,),
        ),
        ArrayCase(
            "expert_specialization",
            lambda seed, chosen, domains: expert_specialization(chosen, domains, num_experts=6),
            (rng.integers(0, 6, (20, 2)), rng.integers(0, 3, 20)),
            empty=lambda: expert_specialization(np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64)),
        ),
    ]


def loop_loss(logits, top_k, token_mask, segments, scores, normalize, subset):
    """Every share and mean by counting tokens one after the other; the mean over segments."""
    t, e = logits.shape
    probs = []
    for row in logits.tolist():
        gates = [math.exp(x) for x in row] if scores == "softmax" else [1 / (1 + math.exp(-x)) for x in row]
        probs.append([g / sum(gates) for g in gates])
    losses = []
    for segment in sorted({segments[i] for i in range(t) if token_mask[i]}):
        rows = [i for i in range(t) if token_mask[i] and segments[i] == segment]
        counted = [i for i in rows if subset[i]]
        total = 0.0
        for expert in range(e):
            chosen = sum(expert in sorted(range(e), key=lambda j: -probs[i][j])[:top_k] for i in counted)
            share = chosen / max(len(counted), 1) / (top_k if normalize else 1)
            total += share * sum(probs[i][expert] for i in rows) / len(rows)
        losses.append(e * total)
    return sum(losses) / len(losses) if losses else 0.0


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_micro_and_global():
    """Micro losses 1.7 and 1.6; with pooled shares (.5, .5) the pooled loss and both micro-batches' are 1."""
    options = {"num_experts": 2, "top_k": 1, **PROBS}
    micro = [load_balancing_loss(p, **options).item() for p in (FIRST, SECOND)]
    assert micro == pytest.approx([1.7, 1.6]) and sum(micro) / 2 == pytest.approx(1.65)
    both = torch.cat([FIRST, SECOND])
    by_sequence = load_balancing_loss(both, **options, scope="sequence", segment_ids=torch.tensor([4, 4, 2, 2]))
    assert by_sequence.item() == pytest.approx(1.65)
    assert load_balancing_loss(both, **options, scope="global").item() == pytest.approx(1.0)
    tracker = ExpertLoadTracker(2)
    for p in (FIRST, SECOND):
        tracker.update(p.argmax(1, keepdim=True))
    assert tracker.frequency().tolist() == [0.5, 0.5]
    for p in (FIRST, SECOND):
        got = load_balancing_loss(p, **options, scope="global", selection_frequency=tracker.frequency())
        assert got.item() == pytest.approx(1.0)


def test_worked_top_2():
    """Counts 4, 3, 1 (a tie goes to the lower index), LBL 1.096875; 2.193750 without the division by top_k."""
    tracker = ExpertLoadTracker(3)
    tracker.update(FOUR.sort(dim=1, descending=True, stable=True).indices[:, :2])
    assert tracker.frequency().tolist() == [0.5, 0.375, 0.125]
    assert FOUR.mean(0).tolist() == pytest.approx([0.425, 0.325, 0.25])
    options = {"num_experts": 3, "top_k": 2, **PROBS}
    assert load_balancing_loss(FOUR, **options).item() == pytest.approx(1.096875, abs=1e-12)
    got = load_balancing_loss(FOUR, **options, normalize_by_top_k=False)
    assert got.item() == pytest.approx(2.193750, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.data())
def test_uniform_gives_one(e, data):
    """Uniform probabilities and uniform selections: exactly 1 for every E and top_k, top_k without the division."""
    top_k = data.draw(st.integers(1, e))
    chosen = (torch.arange(e)[:, None] + torch.arange(top_k)[None, :]) % e
    options = {"num_experts": e, "top_k": top_k}
    logits = torch.full((e, e), 0.3, dtype=torch.float64)
    assert load_balancing_loss(logits, chosen, **options).item() == pytest.approx(1.0, rel=1e-12)
    got = load_balancing_loss(logits, chosen, **options, normalize_by_top_k=False)
    assert got.item() == pytest.approx(top_k, rel=1e-12)


def test_the_loss_may_lie_below_one():
    """Shares and probabilities need not be aligned: selections of the improbable expert give less than 1."""
    got = load_balancing_loss(FIRST, torch.ones(2, 1, dtype=torch.int64), num_experts=2, top_k=1, **PROBS)
    assert got.item() == pytest.approx(0.3)


@pytest.mark.parametrize("top_k", [1, 3])
def test_global_of_one_micro_batch_is_micro(top_k):
    """One micro-batch and no process group: the global loss is the micro loss, token weight or not."""
    logits, options = randn(7, 5), {"num_experts": 5, "top_k": top_k, "token_mask": mask(7)}
    micro = load_balancing_loss(logits, **options).item()
    assert load_balancing_loss(logits, **options, scope="global").item() == micro
    assert load_balancing_loss(logits, **options, scope="global", weight_by_tokens=True).item() == micro


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3))
def test_pooled_shares_make_the_global_loss(seed, ranks, top_k):
    """The mean over equal ranks of E sum f^G P^m is the loss of the whole batch."""
    logits, options = randn(6 * ranks, 4, seed=seed), {"num_experts": 4, "top_k": top_k}
    tracker = ExpertLoadTracker(4)
    tracker.update(logits.topk(top_k, 1).indices)
    parts = [
        load_balancing_loss(x, **options, scope="global", selection_frequency=tracker.frequency().double())
        for x in logits.split(6)
    ]
    whole = load_balancing_loss(logits, **options)
    assert sum(p.item() for p in parts) / ranks == pytest.approx(whole.item(), abs=1e-6)


def test_worked_gradient():
    """dL/dP_i is E f_i exactly, so each of t tokens gets E f_i / t; f takes no gradient; experts permute."""
    probs = FOUR.clone().requires_grad_()
    options = {"num_experts": 3, "top_k": 2, **PROBS}
    load_balancing_loss(probs, **options).backward()
    want = 3 * torch.tensor([0.5, 0.375, 0.125], dtype=torch.float64) / 4
    assert torch.equal(probs.grad, want.expand(4, 3))
    chosen = FOUR.sort(dim=1, descending=True, stable=True).indices[:, :2]
    order = torch.tensor([2, 0, 1])
    permuted = FOUR[:, order].clone().requires_grad_()
    load_balancing_loss(permuted, order.argsort()[chosen], **options).backward()
    assert torch.equal(permuted.grad, probs.grad[:, order])
    frequency = torch.tensor([0.5, 0.375, 0.125], dtype=torch.float64, requires_grad=True)
    load_balancing_loss(probs, **options, selection_frequency=frequency).backward()
    assert frequency.grad is None


RANK = """
import json, sys, torch, torch.distributed as dist
from tamis.losses import ExpertLoadTracker, load_balancing_loss
store, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
out = {}
for name, cut in (("even", 5), ("uneven", 3), ("empty", 0)):
    own = (logits[:cut] if rank == 0 else logits[cut:]).clone().requires_grad_()
    options = dict(num_experts=4, top_k=2, scope="global", weight_by_tokens=name != "even")
    loss = load_balancing_loss(own, **options)
    loss.backward()
    tracker = ExpertLoadTracker(4)
    tracker.update(own.topk(2, 1).indices)
    out[name] = [loss.item(), own.grad.tolist(), tracker.frequency().tolist()]
print(json.dumps(out))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks(tmp_path):
    """Under gloo the mean over two ranks, even or uneven, one of them empty, is the whole batch's loss and gradient."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "store"), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert all(process.returncode == 0 for process in ranks), outputs
    found = [json.loads(out) for out, _ in outputs]
    logits = randn(10, 4).requires_grad_()
    whole = load_balancing_loss(logits, num_experts=4, top_k=2)
    whole.backward()
    tracker = ExpertLoadTracker(4)
    tracker.update(logits.topk(2, 1).indices)
    for name in ("even", "uneven", "empty"):
        losses, gradients, frequencies = zip(*(rank[name] for rank in found), strict=True)
        assert sum(losses) / 2 == pytest.approx(whole.item(), abs=1e-6)
        assert torch.allclose(torch.tensor(gradients[0] + gradients[1]).double() / 2, logits.grad, atol=1e-7)
        assert frequencies[0] == frequencies[1] == tracker.frequency().tolist()


# --- the transcription ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["micro", "sequence", "global"])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("normalize", "part"), [(True, False), (False, True)])
def test_equals_the_loops(seed, scope, scores, normalize, part):
    """Masks, subsets, uneven segments, both gates: the value of the loops."""
    logits, token_mask = randn(15, 6, seed=seed), mask(15, seed)
    segments = torch.tensor([7] * 4 + [3] * 9 + [5] * 2)
    subset = mask(15, seed + 9, 0.5) if part else None
    got = load_balancing_loss(
        logits,
        num_experts=6,
        top_k=2,
        token_mask=token_mask,
        scope=scope,
        segment_ids=segments,
        normalize_by_top_k=normalize,
        scores=scores,
        token_subset=subset,
    )
    want = loop_loss(
        logits,
        2,
        token_mask,
        segments.tolist() if scope == "sequence" else [0] * 15,
        scores,
        normalize,
        [True] * 15 if subset is None else subset,
    )
    assert got.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [1, 2])
def test_equals_transformers(top_k):
    """The micro loss without the division by top_k is that of transformers, with and without padding."""
    peer = pytest.importorskip("transformers.models.mixtral.modeling_mixtral").load_balancing_loss_func
    logits = randn(12, 5, dtype=torch.float32)
    options = {"num_experts": 5, "top_k": top_k, "normalize_by_top_k": False}
    assert load_balancing_loss(logits, **options).item() == pytest.approx(peer((logits,), 5, top_k).item(), rel=1e-6)
    attention = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    got = load_balancing_loss(logits, **options, token_mask=attention.flatten().bool())
    assert got.item() == pytest.approx(peer((logits,), 5, top_k, attention).item(), rel=1e-6)


def test_specialization_equals_the_loops():
    """Mutual information, largest share and shares by domain, selection after selection; arrays and tensors."""
    rng = np.random.default_rng(0)
    chosen, domains = rng.integers(0, 5, (30, 2)), rng.integers(0, 3, 30) * 10
    pairs = [(d, e) for d, row in zip(domains.tolist(), chosen.tolist(), strict=True) for e in row]
    n, information = len(pairs), 0.0
    for d, e in set(pairs):
        p, q, r = (sum(x) / n for x in zip(*(((a, b) == (d, e), a == d, b == e) for a, b in pairs), strict=True))
        information += p * math.log(p / (q * r))
    for kind in (np.asarray, torch.from_numpy):
        found = expert_specialization(kind(chosen), kind(domains), num_experts=6)
        assert found["mutual_information"] == pytest.approx(information, rel=1e-12)
        assert found["max_load"] == pytest.approx(6 * max(sum(e == i for _, e in pairs) / n for i in range(6)))
        assert type(found["per_domain"]) is type(kind(chosen)) and found["per_domain"].shape == (3, 6)
        for row, d in enumerate((0, 10, 20)):
            own = [e for a, e in pairs if a == d]
            assert found["per_domain"][row].tolist() == pytest.approx([own.count(i) / len(own) for i in range(6)])


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from(["softmax", "sigmoid"]))
def test_padding_and_order_do_not_matter(seed, top_k, scores):
    """Permuting tokens leaves the loss, and so do padded tokens, whose indices may be anything; 0 < L <= E."""
    logits, options = randn(8, 5, seed=seed), {"num_experts": 5, "top_k": top_k, "scores": scores}
    value = load_balancing_loss(logits, **options).item()
    assert 0 < value <= 5
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    assert load_balancing_loss(logits[order], **options).item() == pytest.approx(value, rel=1e-12)
    padded = torch.cat([logits, randn(3, 5, seed=seed + 1)])
    chosen = torch.cat([logits.topk(top_k, 1).indices, torch.full((3, top_k), -1)])
    valid = torch.arange(11) < 8
    assert load_balancing_loss(padded, chosen, **options, token_mask=valid).item() == pytest.approx(value, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_information_has_its_bounds(seed, experts):
    """Mutual information lies in [0, log of experts], the largest load in [1, E]; renaming domains changes nothing."""
    rng = np.random.default_rng(seed)
    chosen, domains = rng.integers(0, experts, (12, 1)), rng.integers(0, 4, 12)
    found = expert_specialization(chosen, domains, num_experts=experts)
    assert 0 <= found["mutual_information"] <= math.log(experts) + 1e-12
    assert 1 - 1e-12 <= found["max_load"] <= experts
    again = expert_specialization(chosen, 5 - domains, num_experts=experts)
    assert again["mutual_information"] == pytest.approx(found["mutual_information"], abs=1e-12)


# --- pitfalls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["micro", "sequence", "global"])
@pytest.mark.parametrize("t", [0, 4])
def test_no_token_gives_zero(scope, t):
    """All tokens masked, or none at all: 0 and a gradient of 0, never NaN."""
    logits = randn(t, 3).requires_grad_()
    segments = torch.zeros(t, dtype=torch.int64)
    loss = load_balancing_loss(
        logits,
        num_experts=3,
        top_k=2,
        scope=scope,
        segment_ids=segments,
        token_mask=torch.zeros(t, dtype=torch.bool),
    )
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(t, 3, dtype=torch.float64))


def test_gradcheck():
    """Through the gates, with the selection held, the gradient is that of finite differences."""
    logits, chosen = randn(5, 4), randn(5, 4, seed=1).topk(2, 1).indices
    for scores in ("softmax", "sigmoid"):
        assert torch.autograd.gradcheck(
            lambda x, s=scores: load_balancing_loss(x, chosen, num_experts=4, top_k=2, scores=s),
            logits.clone().requires_grad_(),
        )


def test_half_precision():
    """bfloat16 logits: the float32 loss of the same numbers, and a gradient in bfloat16."""
    logits = randn(64, 8).bfloat16().requires_grad_()
    loss = load_balancing_loss(logits, num_experts=8, top_k=2)
    loss.backward()
    want = load_balancing_loss(logits.detach().double(), num_experts=8, top_k=2)
    assert loss.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(want.item(), rel=1e-6)


def test_counts_of_a_cycle():
    """Counts add up over micro-steps, padding is not counted, evaluation is not, and reset forgets."""
    tracker = ExpertLoadTracker(3)
    assert tracker.frequency().tolist() == [0.0, 0.0, 0.0]
    tracker.update(torch.tensor([[0], [1], [2]]), token_mask=torch.tensor([True, True, False]))
    tracker.update(torch.tensor([[0], [0]]))
    assert tracker.frequency().tolist() == [0.75, 0.25, 0.0]
    tracker.eval()
    tracker.update(torch.tensor([[2]]))
    tracker.train()
    assert tracker.frequency().tolist() == [0.75, 0.25, 0.0]
    state = tracker.state_dict()
    tracker.reset()
    assert tracker.frequency().sum().item() == 0
    other = ExpertLoadTracker(3)
    other.load_state_dict(state)
    other.update(torch.tensor([[2]]))
    assert other.frequency().tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert tracker.frequency().sum().item() == 0  # the state is a copy
    assert not list(tracker.buffers())  # nothing that DistributedDataParallel would copy from rank 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_count_once(reentrant):
    """Activation checkpointing runs the forward pass twice; the selections are counted once."""
    tracker, weight = ExpertLoadTracker(4), randn(3, 4).requires_grad_()

    def layer(x):
        logits = x @ weight
        tracker.update(logits.topk(2, 1).indices)
        return load_balancing_loss(logits, num_experts=4, top_k=2)

    checkpoint(layer, randn(6, 3, seed=1).requires_grad_(), use_reentrant=reentrant).backward()
    assert int(tracker.get_extra_state().sum()) == 12


def test_a_diverse_subset():
    """Counting a subset of tokens changes the shares and leaves the probabilities of all tokens."""
    both, options = torch.cat([FIRST, SECOND]), {"num_experts": 2, "top_k": 1, **PROBS}
    got = load_balancing_loss(both, **options, token_subset=torch.tensor([True, False, True, False]))
    assert got.item() == pytest.approx(1.0)
    got = load_balancing_loss(both, **options, token_subset=torch.tensor([True, True, False, False]))
    assert got.item() == pytest.approx(2 * both.mean(0)[0].item())


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 4}, "top_k must lie between 1 and 3: got 4"),
        ({"top_k": 0}, "top_k must lie between 1 and 3: got 0"),
        ({"num_experts": 4}, r"router_probs_or_logits must have 4 columns: got shape \(4, 3\)"),
        ({"expert_indices": torch.full((4, 2), 3)}, r"expert_indices must lie in 0..2, the experts: got 3..3"),
        ({"expert_indices": torch.full((4, 2), -1)}, r"expert_indices must lie in 0..2, the experts: got -1..-1"),
        ({"expert_indices": torch.ones(4, 1).long()}, r"expert_indices must be \(4, 2\) integers: got \(4, 1\)"),
        ({"expert_indices": torch.ones(4, 2)}, r"expert_indices must be \(4, 2\) integers: got \(4, 2\) torch.float32"),
        ({"token_mask": torch.ones(3, dtype=torch.bool)}, r"token_mask must be \(4,\) bool, one per token: got \(3,\)"),
        ({"token_mask": torch.ones(4)}, r"token_mask must be \(4,\) bool, one per token: got \(4,\) torch.float32"),
        ({"token_subset": torch.ones(3, dtype=torch.bool)}, r"token_subset must be \(4,\) bool"),
        ({"router_probs_or_logits": FOUR * float("nan")}, "router_probs_or_logits must hold no NaN: 4 rows do"),
        ({"router_probs_or_logits": 2 * FOUR}, "must be rows of probabilities with sum 1: 4 rows are not; for logits"),
        ({"scope": "sequence"}, 'segment_ids must be given for scope="sequence": got None'),
        ({"scope": "batch"}, "scope must be one of 'micro', 'sequence', 'global': got 'batch'"),
        ({"scores": "tanh"}, "scores must be one of 'softmax', 'sigmoid', 'probabilities': got 'tanh'"),
        (
            {"scope": "sequence", "segment_ids": torch.zeros(3)},
            r"segment_ids must be \(4,\), one per token: got shape \(3,\)",
        ),
        ({"selection_frequency": torch.ones(3)}, "selection_frequency must be shares with sum 1: got the sum 3"),
        ({"selection_frequency": torch.ones(2) / 2}, r"selection_frequency must be \(3,\), one per expert: got shape"),
        (
            {"selection_frequency": torch.ones(3) / 3, "scope": "sequence", "segment_ids": torch.zeros(4)},
            'selection_frequency cannot be used with scope="sequence"',
        ),
        (
            {"selection_frequency": torch.ones(3) / 3, "scope": "global", "weight_by_tokens": True},
            "selection_frequency cannot be used with weight_by_tokens",
        ),
        ({"weight_by_tokens": True}, "weight_by_tokens needs scope=\"global\": got scope='micro'"),
    ],
)
def test_bad_input_of_the_loss(changes, message):
    """Too many experts per token, indices and masks that do not fit, NaN, options that exclude one another."""
    arguments = {"router_probs_or_logits": FOUR, "num_experts": 3, "top_k": 2, **PROBS, **changes}
    with pytest.raises(ValueError, match=message):
        load_balancing_loss(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ExpertLoadTracker(0), "num_experts must be at least 1: got 0"),
        (lambda: ExpertLoadTracker(2).update(torch.tensor([[2]])), r"expert_indices must lie in 0..1, the experts"),
        (lambda: ExpertLoadTracker(2).update(torch.tensor([1])), r"expert_indices must be two-dimensional"),
        (
            lambda: ExpertLoadTracker(2).load_state_dict(ExpertLoadTracker(3).state_dict()),
            r"the state must hold 2 counts, one per expert: got shape \(3,\)",
        ),
        (
            lambda: expert_specialization(np.zeros((3, 1), dtype=int), np.zeros(2, dtype=int)),
            "domain_ids must have one entry per row of expert_indices: 3 rows, 2 domain_ids",
        ),
        (
            lambda: expert_specialization(np.full((3, 1), 4), np.zeros(3, dtype=int), num_experts=4),
            r"expert_indices must lie in 0..3, the experts: got 4..4",
        ),
        (
            lambda: expert_specialization(np.zeros((3, 1), dtype=int), np.zeros((3, 1), dtype=int)),
            r"domain_ids must be \(t,\): got shape \(3, 1\)",
        ),
    ],
)
def test_bad_input_elsewhere(call, message):
    """Indices out of range, states of another size, domains that do not fit."""
    with pytest.raises(ValueError, match=message):
        call()
