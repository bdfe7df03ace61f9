"""The catalogue: what a method file says of itself, read by parsing and never by importing.

Every method file holds one literal, ``METHOD = Method(...)``. The family and the name come from the path of the file,
the status from ``claims/results/<name>.json``; nothing is said twice. Nothing here runs a method.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, fields
from pathlib import Path

PACKAGE = Path(__file__).parent
FAMILIES = {
    "negatives": "which negatives",
    "batches": "which batch-mates",
    "subsets": "which part of the data",
    "targets": "what counts as positive",
    "losses": "how much each counts",
    "evaluation": "what to test on",
    "preference": "which answers to push",
    "inference": "which answers to sample",
    "diffusion": "which noise and guidance",
    "compression": "which weights and bits",
    "optim": "which updates",
}
STATUSES = ("holds", "holds in part", "fails", "not run")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method is and where it comes from. Literals only.

    Args:
        title: title of the paper, or one line for a staple that no paper owns.
        paper: ``arXiv:...``, ``doi:...``, a URL, or ``"staple"``.
        year: year of first publication.
        code: ``owner/name`` of the official code, or ``""``.
        claim: what the claim script checks, in one sentence.
        peers: import paths of what a user would otherwise take.
        deviations: where we depart from the paper or add to it.
    """

    title: str
    paper: str
    year: int
    code: str = ""
    claim: str
    peers: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the catalogue: a method with its place and its measured status."""

    name: str
    family: str
    path: Path
    method: Method
    status: str


def claims_root() -> Path:
    """The folder of claim scripts: ``claims/`` of the checkout, or the copy inside an installed wheel."""
    checkout = PACKAGE.parent.parent / "claims"
    return checkout if checkout.is_dir() else PACKAGE / "_claims"


def read_method(path: Path) -> Method | None:
    """The ``METHOD`` literal of a file, or None when the file has none.

    Args:
        path: a Python file.

    Returns:
        the method, built from literals without importing the file.

    Raises:
        ValueError: when METHOD is not made of literals or a field is unknown.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "METHOD" for t in node.targets):
            if not isinstance(node.value, ast.Call):
                raise ValueError(f"{path}: METHOD must be a call of Method with literals.")
            known = {f.name for f in fields(Method)}
            unknown = [k.arg for k in node.value.keywords if k.arg not in known]
            if unknown:
                raise ValueError(f"{path}: METHOD has unknown fields {unknown}; known are {sorted(known)}.")
            return Method(**{str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords})
    return None


def status_of(name: str, claims: Path | None = None) -> str:
    """The status that the committed result of a claim gives, or "not run"."""
    result = (claims or claims_root()) / "results" / f"{name}.json"
    if not result.exists():
        return "not run"
    return str(json.loads(result.read_text(encoding="utf-8"))["status"])


def read_catalog(package: Path = PACKAGE, claims: Path | None = None) -> list[Entry]:
    """All methods present, sorted by family (in the order of the house) and name.

    Args:
        package: folder of the package.
        claims: folder of the claims; found by itself when left out.

    Returns:
        one entry per method file or method folder.
    """
    entries = []
    for family in FAMILIES:
        files = [*(package / family).glob("*.py"), *(package / family).glob("*/__init__.py")]
        for path in sorted(files):
            method = read_method(path)
            if method is not None:
                name = path.parent.name if path.name == "__init__.py" else path.stem
                status = status_of(name, claims)
                entries.append(Entry(name=name, family=family, path=path, method=method, status=status))
    return entries
