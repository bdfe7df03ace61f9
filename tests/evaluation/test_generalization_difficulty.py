"""Inductive bias complexity: the official figures, a literal transcription, and what must move which way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import class_separation, inductive_bias_complexity, intrinsic_dimension, task_difficulty
from tests.behaviour import ArrayCase

OFFICIAL = {
    "MNIST": ((1e-3, 60_000, 14, 17.179045827183984, 10, 2.3987084824335305, 9), 1.484804e16),
    "SVHN": ((0.01, 73_257, 19, 53.86932485133339, 10, 1.5766998174969105, 9), 1.212903e31),
    "CIFAR10": ((0.01, 50_000, 27, 54.9156786783691, 10, 2.7506414616587023, 9), 3.437718e32),
    "ImageNet": ((0.1, 1_280_901, 48, 943.5923, 1000, 65, 999), 3.583253e41),
}
TOY = {"error": 0.01, "n": 100, "intrinsic_dim": 2, "radius": 1.0, "n_discrete": 2, "delta": 0.5, "output_dim": 1}


def two_classes(seed: int, n: int = 120, d: int = 3):
    """Points of a cube, cut in two with a gap."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, d))
    y = (X[:, 0] > 0.5).astype(int)
    X[y == 1, 0] += 0.2
    return X, y


def make(seed: int) -> list[ArrayCase]:
    """The estimators and the whole."""
    X, y = two_classes(seed)
    return [
        ArrayCase(
            "intrinsic_dimension",
            lambda s, x: np.array(intrinsic_dimension(x, n_samples=50, seed=s)),
            (X,),
            empty=lambda: intrinsic_dimension(X[:0]),
        ),
        ArrayCase(
            "class_separation",
            lambda s, x, z: np.array(class_separation(x, z, n_pairs=500, k=20, seed=s)),
            (X, y),
            empty=lambda: class_separation(X[:0], y[:0]),
        ),
        ArrayCase(
            "task_difficulty",
            lambda s, x, z: np.array(task_difficulty(x, z, 0.1, method="exact", resamples=3, seed=s).low),
            (X, y),
            empty=lambda: task_difficulty(X[:0], y[:0], 0.1),
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_figures(name):
    """Bits of four image sets from their constants, to all digits given."""
    constants, bits = OFFICIAL[name]
    found = inductive_bias_complexity(*constants)
    assert found.bits == pytest.approx(bits, rel=5e-7)
    assert found.log2_bits == pytest.approx(math.log2(found.bits), rel=1e-12)


def test_the_terms_of_mnist():
    """K, E, ln W, the bracket and the unknowns."""
    terms = inductive_bias_complexity(*OFFICIAL["MNIST"][0]).terms
    assert terms["K"] == pytest.approx(38.9659, abs=5e-5)
    assert math.exp(terms["ln_E"]) == pytest.approx(4.12956e12, rel=2e-6)
    assert terms["ln_W"] == pytest.approx(2.77054, abs=6e-6)
    assert terms["bracket"] == pytest.approx(19.9753, abs=5e-5)
    assert math.exp(terms["ln_dim_theta"]) == pytest.approx(7.43321e14, rel=1e-6)


def test_the_toy():
    """Two dimensions: every term and the bits."""
    found = inductive_bias_complexity(**TOY)
    assert found.terms["K"] == pytest.approx(12.076314, abs=5e-7)
    assert math.exp(found.terms["ln_E"]) == pytest.approx(170.989984, abs=5e-6)
    assert found.terms["ln_W"] == pytest.approx(-1.239806, abs=5e-7)
    assert found.terms["bracket"] == pytest.approx(8.949303, abs=5e-7)
    assert found.bits == pytest.approx(5226.034512, abs=5e-6)


def test_dimension_and_resolution():
    """The bits for two to five dimensions, and for half and a quarter of the separation."""
    bits = [inductive_bias_complexity(**TOY | {"intrinsic_dim": m}).bits for m in (2, 3, 4, 5)]
    assert bits == pytest.approx([5226.0345, 28201.2208, 99245.1673, 272679.1236], abs=1e-3)
    finer = [inductive_bias_complexity(**TOY | {"delta": d}).bits for d in (0.5, 0.25, 0.125)]
    assert finer == pytest.approx([5226.035, 25236.032, 112226.815], abs=1e-3)
    assert all(2**2 < b / a < 2**2.6 for a, b in itertools.pairwise(finer))


def test_one_dimension():
    """In one dimension the degree is the frequency."""
    found = inductive_bias_complexity(**TOY | {"intrinsic_dim": 1})
    assert found.terms["K"] == pytest.approx(2 * math.pi / 0.5, rel=1e-12)


def test_twice_the_error_costs_the_unknowns():
    """Doubling the error lowers the bits by exactly the free unknowns."""
    one, two = inductive_bias_complexity(**TOY), inductive_bias_complexity(**TOY | {"error": 0.02})
    assert one.bits - two.bits == pytest.approx(math.exp(one.terms["ln_dim_q"]), rel=1e-9)


@pytest.mark.parametrize("d", [2, 5])
def test_the_dimension_of_a_cube(d):
    """Within 15 %, whatever the scale."""
    X = np.random.default_rng(d).random((5000, d))
    found = intrinsic_dimension(X)
    assert found == pytest.approx(d, rel=0.15)
    assert intrinsic_dimension(1000 * X) == pytest.approx(found, rel=1e-4)


# --- transcriptions ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-3, 0.5),
    st.integers(1, 200),
    st.integers(1, 8),
    st.floats(0.5, 5),
    st.integers(2, 9),
    st.floats(0.2, 2),
)
def test_equals_the_formula(error, n, m, radius, classes, delta):
    """The formula as printed, with plain gamma functions."""
    big_m = 2 * math.pi * radius / delta
    k = (math.sqrt((m - 1) ** 2 + 4 * big_m**2) - (m - 1)) / 2

    def binomial(a):
        return math.gamma(a + 1) / math.gamma(m + 1) / math.gamma(a - m + 1)

    e = binomial(m + k) + binomial(m + k - 1)
    outputs = classes - 1
    ln_w = 0.5 * math.log(m / 6) + math.log(radius) - math.log(n) / m
    ln_w += math.log(2 * math.pi ** ((m + 1) / 2) * classes / math.gamma((m + 1) / 2)) / m
    lipschitz = k * math.sqrt(outputs) / radius
    bracket = (
        0.5 * math.log2(outputs)
        + 0.5 * math.log2(classes)
        - math.log2(error)
        + math.log2(lipschitz)
        + ln_w / math.log(2)
    )
    want = max(0.0, 2 * outputs * classes * e - n * outputs) * max(0.0, bracket)
    found = inductive_bias_complexity(error, n, m, radius, classes, delta, outputs)
    assert found.bits == pytest.approx(want, rel=1e-8, abs=1e-6)
    assert found.data_determined == (want == 0)


def test_the_dimension_by_loops():
    """One pair of neighbours after the other; equal rows do not count."""
    X = np.random.default_rng(1).random((60, 3))
    X[7] = X[3]
    logs = []
    for i in range(60):
        distances = sorted(math.dist(X[i], X[j]) for j in range(60) if j != i)[:4]
        logs += [math.log(distances[3] / t) for t in distances[:3] if t > 0]
    assert intrinsic_dimension(X, 4) == pytest.approx(len(logs) / sum(logs), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.4))
def test_the_separation_by_loops(seed, floor):
    """The least distance of two rows of different classes, those below the floor left out."""
    X, y = two_classes(seed, n=40)
    y = np.random.default_rng(seed).integers(0, 3, 40)
    all_pairs = [math.dist(X[i], X[j]) for i in range(40) for j in range(i) if y[i] != y[j]]
    want = min(x for x in all_pairs if x >= floor)
    assert class_separation(X, y, "exact", ignore_below=floor) == pytest.approx(want, rel=1e-12)
    assert class_separation(X, y, "sample", n_samples=40, ignore_below=floor) == pytest.approx(want, rel=1e-12)


def test_extreme_values():
    """The moment estimator on the sorted inverse distances, step by step; never above the nearest pair seen."""
    X, y = two_classes(4, n=300)
    rng = np.random.default_rng(9)
    one, other = rng.integers(0, 300, (2, 5000))
    differs = y[one] != y[other]
    inverse = sorted(
        (1 / math.dist(X[i], X[j]) for i, j in zip(one[differs], other[differs], strict=True)), reverse=True
    )
    k = 100
    logs = [math.log(v / inverse[k]) for v in inverse[:k]]
    m1, m2 = sum(logs) / k, sum(v * v for v in logs) / k
    evi = m1 + 1 - 0.5 / (1 - m1 * m1 / m2)
    a = k / len(inverse) * 300**2 * 0.5
    want = min(1 / inverse[0], 1 / ((a**evi - 1) / evi * inverse[k] * m1 + inverse[k]))
    assert class_separation(X, y, n_pairs=5000, k=k, seed=9) == pytest.approx(want, rel=1e-9)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.1, 100), st.floats(0.01, 5), st.floats(1e-3, 1e3))
def test_units_do_not_matter(m, radius, delta, scale):
    """Radius and separation in other units give the same bits; more rows never give more."""
    one = inductive_bias_complexity(0.01, 50, m, radius, 3, delta, 2)
    two = inductive_bias_complexity(0.01, 50, m, radius * scale, 3, delta * scale, 2)
    assert two.data_determined == one.data_determined
    if not one.data_determined:
        assert two.log2_bits == pytest.approx(one.log2_bits, rel=1e-9, abs=1e-6)
    assert inductive_bias_complexity(0.01, 500, m, radius, 3, delta, 2).log2_bits <= one.log2_bits


def test_far_beyond_floats():
    """Where the bits overflow, their logarithm does not."""
    found = inductive_bias_complexity(0.01, 10**6, 2000, 1000.0, 1000, 0.1, 999)
    assert found.bits == math.inf and math.isfinite(found.log2_bits)


def test_enough_data_determine_the_function():
    """More equations than unknowns: nothing is needed, and it is said."""
    found = inductive_bias_complexity(**TOY | {"n": 100_000})
    assert found.bits == 0 and found.data_determined and found.log2_bits == -math.inf


def test_the_range():
    """Halves of the rows are separated at least as well, so the range is at and below the whole."""
    X, y = two_classes(0, n=200)
    found = task_difficulty(X, y, 0.01, method="exact")
    assert found.low <= found.high <= found.complexity.log2_bits + 1e-9
    assert found.intrinsic_dim == 3 and found.delta >= 0.2


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"error": 0.0}, "error must be positive: got 0.0"),
        ({"delta": 0.0}, "delta must be positive: got 0.0"),
        ({"intrinsic_dim": 0.5}, "intrinsic_dim must be at least 1: got 0.5"),
        ({"n": 0}, "n must be at least 1: got 0"),
        ({"output_dim": 0}, "output_dim must be at least 1: got 0"),
    ],
)
def test_bad_constants(change, says):
    """Each names itself."""
    with pytest.raises(ValueError, match=says):
        inductive_bias_complexity(**TOY | change)


@pytest.mark.parametrize("method", ["evt", "sample", "exact"])
def test_bad_classes(method):
    """One class, and equal rows of two classes, which are named."""
    X = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [5.0, 5.0]])
    with pytest.raises(ValueError, match=r"y must hold at least two classes: got \[1\]"):
        class_separation(X, np.ones(4, int), method)
    with pytest.raises(ValueError, match=r"rows (0 and 2|2 and 0) are equal and have different classes"):
        class_separation(np.repeat(X, 1, 0), np.array([0, 0, 1, 1]), method, seed=2)


def test_bad_rows():
    """Too few rows, equal rows, NaN, labels of another length."""
    with pytest.raises(ValueError, match="k must be at least 2 and below the 4 rows: got 5"):
        intrinsic_dimension(np.eye(4))
    with pytest.raises(ValueError, match="X must have rows whose neighbours differ in distance"):
        intrinsic_dimension(np.ones((9, 2)))
    with pytest.raises(ValueError, match="X must be finite"):
        intrinsic_dimension(np.full((9, 2), np.nan))
    with pytest.raises(ValueError, match="y must have one entry per row of X: 4 rows, 3"):
        class_separation(np.eye(4), np.array([0, 1, 1]))
