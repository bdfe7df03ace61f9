"""Checks: every message names the argument, the requirement and what came."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis import checks


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: checks.positive("k", 0), "k must be positive: got 0."),
        (lambda: checks.positive("k", float("nan")), "k must be positive: got nan."),
        (lambda: checks.at_least("k", 1, 2), "k must be at least 2: got 1."),
        (lambda: checks.between("p", 2, 0, 1), "p must lie between 0 and 1: got 2."),
        (lambda: checks.one_of("form", "x", ("a", "b")), "form must be one of 'a', 'b': got 'x'."),
        (lambda: checks.same_length("labels", [1], "rows", [1, 2]), "one entry per row of rows: 2 rows, 1 labels."),
        (lambda: checks.matrix("x", np.zeros(3)), r"x must be two-dimensional \(n, d\): got shape \(3,\)."),
        (lambda: checks.matrix("x", np.zeros((0, 3))), "x must have at least one row"),
        (lambda: checks.matrix("x", np.zeros((2, 3)), columns=4), "x must have 4 columns"),
        (lambda: checks.finite("x", np.array([[0.0], [np.nan]])), "1 rows hold NaN or infinity, the first is row 1"),
        (lambda: checks.finite("x", torch.tensor([[np.inf], [0.0]])), "the first is row 0"),
        (lambda: checks.same_shape("a", np.zeros(2), "b", np.zeros(3)), r"a must have the shape of b: \(3,\)"),
        (lambda: checks.budget_count(11, 10), "budget must be a count between 0 and 10"),
        (lambda: checks.budget_count(1.5, 10), "a share between 0.0 and 1.0"),
    ],
)
def test_messages(call, says):
    """A failed check raises ValueError with its one line."""
    with pytest.raises(ValueError, match=says):
        call()


@given(st.integers(0, 1000), st.floats(0, 1))
def test_budget_is_a_count_of_rows(n, share):
    """A share never asks for more rows than there are, and 0 and 1 are exact."""
    assert 0 <= checks.budget_count(share, n) <= n
    assert (checks.budget_count(0.0, n), checks.budget_count(1.0, n)) == (0, n)


def test_missing_package_names_the_cure():
    """A package that is not there is answered with the pip line."""
    with pytest.raises(ImportError, match="pip install no_such_package"):
        checks.package("no_such_package")
