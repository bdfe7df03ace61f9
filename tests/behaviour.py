"""Cases for the checks that every public object goes through, by kind, and the checks themselves.

A method's test module offers ``make(seed) -> list`` of cases; ``test_behaviour.py`` finds them and runs ``CHECKS``. A
check raises an AssertionError whose message is a sentence.
"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis.checks import budget_count


@dataclass(frozen=True)
class LossCase:
    """A loss on tensors: ``call(*inputs)`` gives a scalar; ``inputs`` are float64 tensors that take a gradient.

    ``others`` are further tensors that the call closes over (a guide's embeddings, say) and that take no gradient.
    """

    name: str
    call: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    others: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class SamplerCase:
    """A sampler: ``build(seed, rank, num_replicas)`` gives one that has what ``tamis.sampling.EpochSampler`` has."""

    name: str
    build: Callable[[int, int, int], Any]


@dataclass(frozen=True)
class ArrayCase:
    """A function of arrays: ``call(seed, *inputs)`` gives an array, a tuple or a dataclass of arrays.

    ``empty`` calls it on empty input and must raise a ValueError with a clear line. ``torch_too``: tensors in, tensors
    out. ``budget``: ``(call, n)`` for selectors, where ``call(budget)`` returns the chosen indices out of n rows.
    """

    name: str
    call: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    empty: Callable[[], Any] | None = None
    torch_too: bool = False
    budget: tuple[Callable[[float], Any], int] | None = None


# What the checks are made of


def leaves(result: Any, path: str = "result") -> Iterator[tuple[str, Any]]:
    """Arrays and plain values of a result, each with its place in it."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, Mapping):
        for key, value in result.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(result, tuple | list):
        for i, value in enumerate(result):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, result


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, NaN equal to NaN, and of one type and dtype."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype:
            return False
        # NumPy knows no bfloat16, and every bfloat16 is a float32.
        one, other = (
            x.detach().cpu().to(torch.float32 if x.dtype == torch.bfloat16 else x.dtype) for x in (one, other)
        )
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return type(one) is type(other) and bool(one == other or one != one)


def same_leaves(one: Any, other: Any) -> str | None:
    """The place where two results differ first, or None."""
    pairs = list(leaves(one)), list(leaves(other))
    if [path for path, _ in pairs[0]] != [path for path, _ in pairs[1]]:
        return "result"
    return next((path for (path, a), (_, b) in zip(*pairs, strict=True) if not same(a, b)), None)


@contextmanager
def global_generators_untouched(name: str) -> Iterator[None]:
    """The generators of random, NumPy and torch stand where they stood."""

    def states() -> tuple[Any, ...]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()

    before = states()
    yield
    moved = [n for n, a, b in zip(("random", "numpy", "torch"), before, states(), strict=True) if a != b]
    assert not moved, f"{name} moves the global generator of {', '.join(moved)}: take a seed or a generator."


def _copies(arrays: tuple[Any, ...]) -> list[Any]:
    return [a.detach().clone() if isinstance(a, torch.Tensor) else np.array(a) for a in arrays]


def _assert_untouched(name: str, arrays: tuple[Any, ...], before: list[Any]) -> None:
    for i, (now, then) in enumerate(zip(arrays, before, strict=True)):
        assert same(now, then), f"{name} writes to its input {i}: inputs are never written to."


# Losses


def same_value_twice(case: LossCase) -> None:
    """The same call gives the same value, a scalar, and no generator is used."""
    with global_generators_untouched(case.name):
        one, two = case.call(*case.inputs), case.call(*case.inputs)
    assert one.ndim == 0, f"{case.name} must give a scalar: got shape {tuple(one.shape)}."
    assert same(one, two), f"{case.name} gives {float(one)!r} and then {float(two)!r} for one input."


def loss_inputs_untouched(case: LossCase) -> None:
    """Neither the loss nor its gradient writes to what it was given."""
    given = (*case.inputs, *case.others)
    before = _copies(given)
    for tensor in case.inputs:
        tensor.requires_grad_()
    value = case.call(*case.inputs)
    _assert_untouched(case.name, given, before)
    value.backward()
    _assert_untouched(case.name, given, before)


def loss_keeps_dtype(case: LossCase) -> None:
    """float32 gives float32 and float64 gives float64, in the value and in the gradients."""
    for dtype in (torch.float32, torch.float64):
        for other in case.others:
            if other.is_floating_point():
                other.data = other.data.to(dtype)
        inputs = [x.detach().to(dtype).requires_grad_() for x in case.inputs]
        value = case.call(*inputs)
        assert value.dtype == dtype, f"{case.name} gives {value.dtype} for inputs of {dtype}."
        value.backward()
        assert all(x.grad is None or x.grad.dtype == dtype for x in inputs)


def gradients_reach_every_input(case: LossCase) -> None:
    """Gradients are finite, and none is zero everywhere."""
    inputs = [x.detach().clone().requires_grad_() for x in case.inputs]
    case.call(*inputs).backward()
    for i, tensor in enumerate(inputs):
        assert tensor.grad is not None, f"{case.name}: no gradient reaches input {i}."
        assert bool(tensor.grad.isfinite().all()), f"{case.name}: the gradient of input {i} is not finite."
        assert bool((tensor.grad != 0).any()), f"{case.name}: the gradient of input {i} is zero everywhere."


def others_take_no_gradient(case: LossCase) -> None:
    """What only judges (a guide, say) takes no gradient, even where it asks for one."""
    asking = [x for x in case.others if x.is_floating_point()]
    for tensor in asking:
        tensor.requires_grad_()
    case.call(*[x.detach().clone().requires_grad_() for x in case.inputs]).backward()
    for i, tensor in enumerate(asking):
        assert tensor.grad is None, f"{case.name}: a gradient reaches the other tensor {i}: detach it."


# Samplers


def _epoch(sampler: Any) -> list[tuple[int, ...]]:
    """The items of an epoch, as tuples."""
    return [(item,) if isinstance(item, int | np.integer) else tuple(item) for item in sampler]


def same_seed_same_batches(case: SamplerCase) -> None:
    """An epoch is a function of the seed, and iterating twice gives it twice."""
    with global_generators_untouched(case.name):
        sampler = case.build(3, 0, 1)
        first = _epoch(sampler)
    assert first, f"{case.name} gives no batch."
    assert first == _epoch(sampler), f"{case.name} gives another epoch the second time it is iterated."
    assert first == _epoch(case.build(3, 0, 1)), f"{case.name} gives other batches for the same seed."


def epochs_differ(case: SamplerCase) -> None:
    """set_epoch changes the batches, and changes them back."""
    sampler = case.build(3, 0, 1)
    first = _epoch(sampler)
    sampler.set_epoch(1)
    assert _epoch(sampler) != first, f"{case.name} gives the same batches in epoch 1 as in epoch 0."
    sampler.set_epoch(0)
    assert _epoch(sampler) == first, f"{case.name} does not give epoch 0 again after epoch 1."


def shards_are_disjoint(case: SamplerCase) -> None:
    """Ranks deal one plan out among them: equal lengths, no batch twice, none that a single process would not have."""
    whole = Counter(_epoch(case.build(3, 0, 1)))
    for world in (2, 3):
        shards = [_epoch(case.build(3, rank, world)) for rank in range(world)]
        lengths = [len(shard) for shard in shards]
        assert len(set(lengths)) == 1, f"{case.name}: {world} ranks get {lengths} batches, not equally many."
        dealt = Counter(batch for shard in shards for batch in shard)
        assert dealt <= whole, f"{case.name}: {world} ranks share a batch, or have one that a single process has not."


def length_is_true(case: SamplerCase) -> None:
    """len is the number of batches, on one rank and on several."""
    for rank, world in ((0, 1), (0, 2), (1, 2), (2, 3)):
        sampler = case.build(3, rank, world)
        said, given = len(sampler), len(_epoch(sampler))
        assert said == given, f"{case.name}: len says {said} and there are {given} batches (rank {rank} of {world})."


def resumes_in_the_middle(case: SamplerCase) -> None:
    """A state saved in the middle of an epoch brings back what is left of it, and then whole epochs."""
    for rank, world in ((0, 1), (1, 2)):
        sampler = case.build(3, rank, world)
        sampler.set_epoch(2)
        running = iter(sampler)
        for _ in range(max(1, len(sampler) // 2)):
            next(running)
        state = pickle.loads(pickle.dumps(sampler.state_dict()))
        left = _epoch(running)
        resumed = case.build(3, rank, world)
        resumed.load_state_dict(state)
        said, rest = len(resumed), _epoch(resumed)
        assert rest == left, f"{case.name} does not resume: {len(left)} batches were left, {len(rest)} came, or others."
        assert said == len(left), f"{case.name}: len says {said} after resuming and {len(left)} batches are left."
        for one in (sampler, resumed):
            one.set_epoch(3)
        assert _epoch(sampler) == _epoch(resumed), f"{case.name}: the epoch after the resumed one differs."


# Functions of arrays


def same_seed_same_result(case: ArrayCase) -> None:
    """A result is a function of the seed and the inputs; NumPy in, NumPy out; no global generator moves."""
    with global_generators_untouched(case.name):
        one = case.call(3, *case.inputs)
    differs = same_leaves(one, case.call(3, *case.inputs))
    assert differs is None, f"{case.name} gives another {differs} for the same seed."
    tensors = [path for path, value in leaves(one) if isinstance(value, torch.Tensor)]
    assert not tensors, f"{case.name} gives a tensor for arrays: {', '.join(tensors)}."


def array_inputs_untouched(case: ArrayCase) -> None:
    """Inputs are never written to, not even for a while: read-only arrays will do."""
    before = _copies(case.inputs)
    case.call(3, *case.inputs)
    _assert_untouched(case.name, case.inputs, before)
    for array in case.inputs:
        array.flags.writeable = False
    case.call(3, *case.inputs)


def empty_is_refused(case: ArrayCase) -> None:
    """Empty input is answered with a ValueError of one line."""
    assert case.empty is not None
    try:
        case.empty()
    except ValueError as error:
        message = str(error)
        assert len(message) > 10, f"{case.name} says too little of empty input: {message!r}."
        assert "\n" not in message, f"{case.name} must answer empty input in one line: {message!r}."
    else:
        raise AssertionError(f"{case.name} takes empty input: raise a ValueError that says what is missing.")


def tensors_come_back(case: ArrayCase) -> None:
    """Tensors in, tensors out: of the float dtype and device of the input, with the numbers that arrays give."""
    floats = [a.dtype for a in case.inputs if a.dtype.kind == "f"]
    for dtype in dict.fromkeys([*floats[:1], np.dtype(np.float32), np.dtype(np.float64)]):
        arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in case.inputs]
        try:
            expected = case.call(3, *arrays)
        except TypeError:
            assert dtype not in floats, f"{case.name} refuses the dtype of its own case."
            continue
        found = case.call(3, *[torch.tensor(a) for a in arrays])
        for (path, array), (_, tensor) in zip(leaves(expected), leaves(found), strict=True):
            if isinstance(array, np.ndarray) and array.dtype.kind not in "OUS":
                assert isinstance(tensor, torch.Tensor), f"{case.name} gives no tensor for tensors: {path}."
                assert tensor.device.type == "cpu", f"{case.name} moves {path} to {tensor.device}."
                if floats and tensor.is_floating_point():
                    wanted = torch.tensor(arrays[0][:0].astype(dtype)).dtype
                    assert tensor.dtype == wanted, f"{case.name} gives {path} in {tensor.dtype} for {wanted}."
                numbers = tensor.detach().numpy()
                assert np.allclose(numbers, array, equal_nan=True), f"{case.name}: tensors and arrays differ in {path}."


def budget_is_exact(case: ArrayCase) -> None:
    """A selector returns exactly as many rows as the budget says, each once."""
    assert case.budget is not None
    call, n = case.budget
    for budget in (1, n // 3, n // 2 + 1, n, 0.1, 0.5, 1.0):
        wanted = budget_count(budget, n)
        chosen = np.asarray(call(budget))
        assert len(chosen) == wanted, (
            f"{case.name} returns {len(chosen)} rows for a budget of {budget!r}, not {wanted}."
        )
        assert len(set(chosen.tolist())) == len(chosen), f"{case.name} returns a row twice for a budget of {budget!r}."
        inside = chosen.size == 0 or (chosen.min() >= 0 and chosen.max() < n)
        assert inside, f"{case.name} returns rows outside 0 to {n - 1}."


def checks_of(case: Any) -> list[Callable[[Any], None]]:
    """The checks of a case's kind, without those that it offers nothing for."""
    needs = {
        others_take_no_gradient: "others",
        empty_is_refused: "empty",
        tensors_come_back: "torch_too",
        budget_is_exact: "budget",
    }
    return [check for check in CHECKS[type(case)] if check not in needs or getattr(case, needs[check])]


CHECKS: dict[type, tuple[Callable[[Any], None], ...]] = {
    LossCase: (
        same_value_twice,
        loss_inputs_untouched,
        loss_keeps_dtype,
        gradients_reach_every_input,
        others_take_no_gradient,
    ),
    SamplerCase: (
        same_seed_same_batches,
        epochs_differ,
        shards_are_disjoint,
        length_is_true,
        resumes_in_the_middle,
    ),
    ArrayCase: (
        same_seed_same_result,
        array_inputs_untouched,
        empty_is_refused,
        tensors_come_back,
        budget_is_exact,
    ),
}
