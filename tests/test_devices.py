"""No code path assumes the CPU: what a function makes of its arguments lies where they lie."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tamis"
CREATES = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "zeros"}
ON_THE_CPU = {
    "plan.py": "times a product of the processor",
    "negatives/spn4cir/positives.py": "draws pairs of captions, which are text",
    "losses/stationary/compatibility.py": "reports on arrays",
    "losses/stationary/simplex.py": "makes a constant that a module registers",
    "negatives/mochi/diagnostics.py": "indexes with a range, which any device takes",
}


def without_device(tree: ast.AST, inside_init: bool = False) -> Iterator[tuple[int, str]]:
    """Lines that make a tensor without saying where; starts of modules, which ``.to`` moves, are left out.

    A draw from a generator lies where the generator does.
    """
    for node in ast.iter_child_nodes(tree):
        start = inside_init or (isinstance(node, ast.FunctionDef) and node.name == "__init__")
        function = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(node, ast.Call)
            and isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
            and function.attr in CREATES
            and not start
            and not {k.arg for k in node.keywords} & {"device", "generator", "out"}
        ):
            yield node.lineno, ast.unparse(node)
        yield from without_device(node, start)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_new_tensors_say_where_they_lie(path):
    """Every ``torch.zeros`` and its like outside a constructor names a device."""
    name = path.relative_to(SOURCE).as_posix()
    found = list(without_device(ast.parse(path.read_text(encoding="utf-8"))))
    if name in ON_THE_CPU:
        assert found, f"{name} needs no exception any more"
    else:
        assert not found, f"{name} makes tensors on the CPU whatever it is given: {found}"


def test_the_rule_can_fail():
    """A tensor without a device is found in a function, and not in a constructor."""
    bad = (
        "def f(x):\n    return x + torch.zeros(3)\nclass A:\n    def __init__(self):\n        self.b = torch.zeros(2)\n"
    )
    assert list(without_device(ast.parse(bad))) == [(2, "torch.zeros(3)")]
