"""Every method goes through the common checks of its kind, and every check can fail."""

from __future__ import annotations

import importlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import behaviour
from tests.behaviour import CHECKS, ArrayCase, LossCase, SamplerCase, checks_of
from tests.house_rules import methods

ROOT = Path(__file__).parent.parent
SEED = 0


def cases_of(family: str, method: str) -> list:
    """The cases of a method; a sentence in an AssertionError when there are none."""
    where = f"tests/{family}/test_{method}.py"
    try:
        module = importlib.import_module(f"tests.{family}.test_{method}")
    except ModuleNotFoundError as error:
        raise AssertionError(f"{where} cannot be imported: {error}") from error
    assert hasattr(module, "make"), (
        f"{where} has no make(seed): return cases of tests/behaviour.py for the shared checks."
    )
    cases = module.make(SEED)
    assert cases, f"{where}: make(seed) returns no case."
    unknown = [type(case).__name__ for case in cases if type(case) not in CHECKS]
    assert not unknown, f"{where}: make(seed) returns {', '.join(unknown)}, which is no case of tests/behaviour.py."
    names = [(type(case), case.name) for case in cases]
    assert len(set(names)) == len(names), f"{where}: two cases of make(seed) have one name."
    return cases


def found() -> list:
    """One parameter per method, case and check; one that fails per method without cases."""
    parameters = []
    for family, method in methods(ROOT):
        try:
            cases = cases_of(family, method)
        except Exception as error:  # a broken test module must fail its own method only
            parameters.append(pytest.param(family, method, None, None, str(error), id=f"{method}-without-cases"))
            continue
        parameters += [
            pytest.param(family, method, i, check, "", id=f"{method}-{case.name}-{check.__name__}")
            for i, case in enumerate(cases)
            for check in checks_of(case)
        ]
    return parameters


@pytest.mark.parametrize(("family", "method", "number", "check", "trouble"), found())
def test_methods_behave(family, method, number, check, trouble):
    """Same seed same result, inputs untouched, dtype kept, gradients finite, resuming, exact budgets."""
    if trouble:
        pytest.fail(trouble)
    check(cases_of(family, method)[number])


# Every check can fail


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GUIDE = rand(4, 3, seed=1)


def loss_case(call, **more):
    return LossCase("loss", call, (rand(4, 3), rand(4, 3, seed=2)), **more)


def good_loss(a, b):
    return (a * b).sum()


def scribbling_loss(a, b):
    value = (a * b).sum()
    with torch.no_grad():
        b.mul_(2)
    return value


def restless_loss(a, b):
    return (a * b).sum() + torch.rand(())


def guided_loss(detach):
    guide = GUIDE.clone()

    def call(a, b):
        return (a * b * (guide.detach() if detach else guide)).sum()

    return LossCase("guided", call, (rand(4, 3), rand(4, 3, seed=2)), (guide,))


LOSSES = {
    "value": (behaviour.same_value_twice, lambda: loss_case(restless_loss), "moves the global generator of torch"),
    "scalar": (
        behaviour.same_value_twice,
        lambda: loss_case(lambda a, b: a * b),
        r"must give a scalar: got shape \(4, 3\)",
    ),
    "changing": (
        behaviour.same_value_twice,
        lambda: loss_case(lambda a, b, calls=[]: (a * b).sum() * (calls.append(1) or len(calls))),
        "for one input",
    ),
    "writing": (behaviour.loss_inputs_untouched, lambda: loss_case(scribbling_loss), "writes to its input 1"),
    "dtype": (
        behaviour.loss_keeps_dtype,
        lambda: loss_case(lambda a, b: (a * b).sum().double()),
        "gives torch.float64 for inputs of torch.float32",
    ),
    "no gradient": (
        behaviour.gradients_reach_every_input,
        lambda: loss_case(lambda a, b: (a * b.detach()).sum()),
        "no gradient reaches input 1",
    ),
    "zero gradient": (
        behaviour.gradients_reach_every_input,
        lambda: loss_case(lambda a, b: a.sum() + 0 * b.sum()),
        "the gradient of input 1 is zero everywhere",
    ),
    "infinite gradient": (
        behaviour.gradients_reach_every_input,
        lambda: loss_case(lambda a, b: (a - a).abs().sqrt().sum() + b.sum()),
        "the gradient of input 0 is not finite",
    ),
    "guide": (behaviour.others_take_no_gradient, lambda: guided_loss(False), "a gradient reaches the other tensor 0"),
}


class Shuffled:
    """A sampler that keeps every rule; the flags break one each."""

    def __init__(self, seed, rank, world, *, broken=""):
        self.seed, self.rank, self.world, self.broken = seed, rank, world, broken
        self.epoch = self.start = self.taken = self.times = 0

    def set_epoch(self, epoch):
        if epoch != self.epoch:
            self.epoch, self.start, self.taken = epoch, 0, 0

    def plan(self):
        epoch = 0 if self.broken == "epoch" else self.epoch
        if self.broken == "forgetful" and self.start:
            epoch += 1
        if self.broken == "restless":
            self.times += 1
            epoch += self.times
        if self.broken == "global":
            random.random()
        rows = np.random.default_rng([self.seed, epoch]).permutation(24)
        return [rows[i : i + 2].tolist() for i in range(0, 24, 2)]

    def __len__(self):
        size = len(self.plan()[self.start :: self.world])
        return size + 1 if self.broken == "length" else size

    def __iter__(self):
        step = 1 if self.broken == "overlap" else self.world
        batches = self.plan()
        places = range(self.start + (self.rank if step > 1 else 0), len(batches), step)
        if self.broken == "uneven" and self.rank:
            places = places[1:]
        self.start = 0
        for place in places:
            self.taken = place - self.rank + self.world
            yield batches[place]

    def state_dict(self):
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state):
        self.epoch, self.start = state["epoch"], 0 if self.broken == "resume" else state["taken"]


SAMPLERS = {
    "epoch": (behaviour.epochs_differ, "gives the same batches in epoch 1 as in epoch 0"),
    "restless": (behaviour.same_seed_same_batches, "another epoch the second time"),
    "global": (behaviour.same_seed_same_batches, "moves the global generator of random"),
    "overlap": (behaviour.shards_are_disjoint, "2 ranks share a batch"),
    "uneven": (behaviour.shards_are_disjoint, r"2 ranks get \[6, 5\] batches"),
    "length": (behaviour.length_is_true, "len says 13 and there are 12"),
    "resume": (behaviour.resumes_in_the_middle, "does not resume: 6 batches were left, 12 came"),
    "forgetful": (behaviour.resumes_in_the_middle, "does not resume: 6 batches were left, 6 came, or others"),
}


def sampler_case(broken=""):
    return SamplerCase("sampler", lambda seed, rank, world: Shuffled(seed, rank, world, broken=broken))


def array_case(call, **more):
    return ArrayCase("array", call, (np.arange(12.0).reshape(4, 3),), **more)


def noisy(seed, x):
    return {"sum": x.sum(0), "noise": (np.random.default_rng().random(3),)}


def scribble(seed, x):
    x[0] = 0
    return x.sum()


def doubled(seed, x):
    return x.double() * 2 if isinstance(x, torch.Tensor) else x * 2


ARRAYS = {
    "seedless": (behaviour.same_seed_same_result, array_case(noisy), r"another result.noise\[0\] for the same seed"),
    "global": (
        behaviour.same_seed_same_result,
        array_case(lambda seed, x: np.random.rand() and x),  # noqa: NPY002
        "moves the global generator of numpy",
    ),
    "tensor out": (behaviour.same_seed_same_result, array_case(lambda seed, x: torch.tensor(x)), "a tensor for arrays"),
    "writing": (behaviour.array_inputs_untouched, array_case(scribble), "writes to its input 0"),
    "empty taken": (behaviour.empty_is_refused, array_case(doubled, empty=lambda: 0), "takes empty input"),
    "empty mumbled": (
        behaviour.empty_is_refused,
        array_case(doubled, empty=lambda: (_ for _ in ()).throw(ValueError("no"))),
        "says too little",
    ),
    "array out": (
        behaviour.tensors_come_back,
        array_case(lambda seed, x: np.asarray(x) * 2, torch_too=True),
        "gives no tensor for tensors: result",
    ),
    "dtype": (
        behaviour.tensors_come_back,
        array_case(doubled, torch_too=True),
        "gives result in torch.float64 for torch.float32",
    ),
    "other numbers": (
        behaviour.tensors_come_back,
        array_case(lambda seed, x: x * (2 if isinstance(x, torch.Tensor) else 3), torch_too=True),
        "tensors and arrays differ in result",
    ),
    "short": (
        behaviour.budget_is_exact,
        array_case(doubled, budget=(lambda b: [0], 9)),
        "returns 1 rows for a budget of 3",
    ),
    "twice": (
        behaviour.budget_is_exact,
        array_case(doubled, budget=(lambda b: [0] * (b if isinstance(b, int) else round(9 * b)), 9)),
        "returns a row twice",
    ),
    "outside": (
        behaviour.budget_is_exact,
        array_case(doubled, budget=(lambda b: [9], 9)),
        "returns rows outside 0 to 8",
    ),
}


@pytest.mark.parametrize(("check", "build", "sentence"), LOSSES.values(), ids=LOSSES)
def test_a_bad_loss_is_found(check, build, sentence):
    """Each check of losses fails on the loss that breaks it, and passes a good one."""
    check(loss_case(good_loss))
    check(guided_loss(True))
    with pytest.raises(AssertionError, match=sentence):
        check(build())


@pytest.mark.parametrize("broken", SAMPLERS)
def test_a_bad_sampler_is_found(broken):
    """Each check of samplers fails on the sampler that breaks it, and passes a good one."""
    check, sentence = SAMPLERS[broken]
    check(sampler_case())
    with pytest.raises(AssertionError, match=sentence):
        check(sampler_case(broken))


@pytest.mark.parametrize(("check", "case", "sentence"), ARRAYS.values(), ids=ARRAYS)
def test_a_bad_function_is_found(check, case, sentence):
    """Each check of array functions fails on the function that breaks it, and passes a good one."""
    good = replace(
        case,
        call=lambda seed, x: (x * 2, x.sum(0)),
        inputs=(np.arange(12.0).reshape(4, 3),),
        empty=lambda: behaviour.budget_count(2, 0),
        torch_too=True,
        budget=(lambda b: np.arange(behaviour.budget_count(b, 9)), 9),
    )
    check(good)
    with pytest.raises(AssertionError, match=sentence):
        check(case)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        ("", r"has no make\(seed\): return cases"),
        ("def make(seed):\n    return []\n", "returns no case"),
        ("def make(seed):\n    return [1]\n", "returns int, which is no case"),
        (
            "from tests.behaviour import ArrayCase\n\n\ndef make(seed):\n    return [ArrayCase('a', len, ())] * 2\n",
            "two cases of make",
        ),
    ],
)
def test_a_test_module_without_cases_is_found(make, sentence, tmp_path, monkeypatch):
    """No make, no cases, strange cases, and two of one name each give a sentence."""
    (tmp_path / "test_sieve.py").write_text(make)
    package = type(sys)("tests.sieves")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "tests.sieves", package)
    monkeypatch.delitem(sys.modules, "tests.sieves.test_sieve", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(AssertionError, match=sentence):
        cases_of("sieves", "sieve")
    sys.modules.pop("tests.sieves.test_sieve", None)
    with pytest.raises(AssertionError, match=r"tests/sieves/test_colander\.py cannot be imported"):
        cases_of("sieves", "colander")
