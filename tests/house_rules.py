"""The rules of the house as functions of a checkout's root: each gives one sentence per breach, none when all is well.

Files are read by parsing, so a rule needs nothing that the files need. A *method file* is a file with ``METHOD`` in the
folder of a family, or any file of a method's own folder (one whose ``__init__.py`` has ``METHOD``). A *tool* is a file
at the top of the package. ``test_catalog.py`` runs the rules on the checkout, and on small trees that break them.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tamis.method import FAMILIES, STATUSES, Method, read_method

LONGEST = 400
SMALL = 2
"""A tool that takes at most so many arguments, none of them an array, may say all in one sentence."""
DRAWERS = ("utils", "helpers", "common", "misc")
PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\S+|https?://\S+|staple")
SHAPE = re.compile(r"\((?:[a-z_]+|\d+)(?: [-+*] \w+)?,[^()]*\)")
ARRAYS = re.compile(r"\b(Array|ArrayLike|ndarray|Tensor|Kind)\b")
DOORS = ("encoders.py", "results.py")
"""Where names become models and results become data sets: these may import integrations, inside functions."""


@dataclass(frozen=True)
class Source:
    """A file of the package.

    ``path`` is relative to the package; ``unit`` is (family, method) for a method file, else None.
    """

    path: Path
    text: str
    tree: ast.Module
    unit: tuple[str, str] | None

    @property
    def module(self) -> str:
        """Dotted name: ``tamis.losses.gistembed``."""
        parts = self.path.with_suffix("").parts
        return ".".join(("tamis", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    @property
    def is_tool(self) -> bool:
        return len(self.path.parts) == 1 and self.path.name != "__init__.py"


@dataclass(frozen=True)
class Import:
    """One imported name: the module it is asked from, the name (None for ``import module``), and where it stands."""

    module: str
    name: str | None
    line: int
    inside: bool


# Reading


def sources(root: Path) -> list[Source]:
    """All files of the package, sorted."""
    package = root / "src" / "tamis"
    found = [(path.relative_to(package), *_parsed(path, path.stat().st_mtime_ns)) for path in package.rglob("*.py")]
    owns = {path for path, _, tree in found if len(path.parts) > 1 and path.parts[0] in FAMILIES and _has_method(tree)}
    folders = {path.parent for path in owns if path.name == "__init__.py"}

    def unit(path: Path) -> tuple[str, str] | None:
        folder = next((f for f in path.parents if f in folders), None)
        if folder is not None:
            return path.parts[0], folder.name
        return (path.parts[0], path.stem) if path in owns else None

    return [Source(path, text, tree, unit(path)) for path, text, tree in sorted(found, key=lambda item: item[0])]


@functools.cache
def _parsed(path: Path, changed: int) -> tuple[str, ast.Module]:
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _has_method(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "METHOD" for t in node.targets)
        for node in tree.body
    )


def methods(root: Path) -> dict[tuple[str, str], Source]:
    """(family, name) -> the file with METHOD."""
    return {s.unit: s for s in sources(root) if s.unit is not None and _has_method(s.tree)}


def imports(source: Source) -> Iterator[Import]:
    """All imports of a file with relative ones made absolute; those under TYPE_CHECKING are left out."""
    package = source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, None, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package.rsplit(".", child.level - 1)[0] if child.level else ""
                module = ".".join(part for part in (base, child.module) if part)
                yield from (Import(module, alias.name, child.lineno, inside) for alias in child.names)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside or function)

    return walk(source.tree, False)


def _target(imported: Import, known: dict[str, Source], depth: int = 0) -> str:
    """The module that an import really reaches: a submodule, or the module that a package re-exports the name from."""
    if imported.name is None:
        return imported.module
    if f"{imported.module}.{imported.name}" in known:
        return f"{imported.module}.{imported.name}"
    package = known.get(imported.module)
    if package is not None and package.path.name == "__init__.py" and depth < 5:
        for node in package.tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == imported.name:
                        again = next(i for i in imports(package) if i.line == node.lineno and i.name == alias.name)
                        return _target(again, known, depth + 1)
    return imported.module


# The four files of a method


def methods_have_their_files(root: Path) -> list[str]:
    """Every method has a test, a claim and an export line in its family."""
    breaches = []
    for family, name in methods(root):
        for path, what in ((f"tests/{family}/test_{name}.py", "test"), (f"claims/{family}/{name}.py", "claim script")):
            if not (root / path).is_file():
                breaches.append(f"{family}/{name} has no {what}: write {path}.")
        init = root / "src" / "tamis" / family / "__init__.py"
        tree = ast.parse(init.read_text(encoding="utf-8")) if init.is_file() else ast.Module([], [])
        exported = [
            alias
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module in (f"tamis.{family}.{name}", name)
            for alias in node.names
        ]
        if not exported:
            breaches.append(
                f"{family}/__init__.py does not export {name}: add `from tamis.{family}.{name} import X as X`."
            )
        breaches += [
            f"{family}/__init__.py must export {a.name} in the form `{a.name} as {a.name}`."
            for a in exported
            if a.asname != a.name
        ]
    return breaches


def claims_have_results(root: Path) -> list[str]:
    """Every claim was run, and its committed result is whole."""
    breaches = []
    for family, name in methods(root):
        path, script = root / f"claims/results/{name}.json", root / f"claims/{family}/{name}.py"
        if not path.is_file():
            breaches.append(f"{family}/{name} has no result: run its claim and commit claims/results/{name}.json.")
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            status, rows, seeds = result["status"], len(result["rows"]), result["seeds"]
        except (ValueError, KeyError, TypeError) as error:
            breaches.append(f"claims/results/{name}.json is not a whole result: {type(error).__name__} {error}.")
            continue
        if status not in STATUSES:
            breaches.append(f"claims/results/{name}.json has the status {status!r}, not one of {', '.join(STATUSES)}.")
        asked = _seeds_of(script) if script.is_file() else seeds
        if not rows == seeds == asked:
            breaches.append(
                f"claims/results/{name}.json has {rows} rows for {seeds} seeds, and the claim asks for {asked}: "
                "run the claim again."
            )
    return breaches


def _seeds_of(script: Path) -> int:
    """``seeds`` of ``CLAIM = Claim(...)``, 5 when it is not given."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Claim":
            return next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "seeds"), 5)
    return 0


def method_fields_are_filled(root: Path) -> list[str]:
    """METHOD is made of literals and says title, paper, year and claim."""
    breaches = []
    for (family, name), source in methods(root).items():
        try:
            method = read_method(root / "src" / "tamis" / source.path)
        except (ValueError, TypeError) as error:
            breaches.append(f"{family}/{name}: METHOD cannot be read: {str(error).rstrip('.')}.")
            continue
        assert isinstance(method, Method)
        breaches += [
            f"{family}/{name}: the field {field!r} of METHOD is empty."
            for field in ("title", "claim")
            if not str(getattr(method, field)).strip()
        ]
        if not PAPER.fullmatch(method.paper):
            breaches.append(
                f"{family}/{name}: paper must be arXiv:dddd.ddddd, doi:..., https://... or staple: "
                f"got {method.paper!r}."
            )
        if not 1900 < method.year < 2100:
            breaches.append(f"{family}/{name}: year must be the year of first publication, not {method.year!r}.")
    return breaches


def changes_are_told(root: Path) -> list[str]:
    """changes/ holds at least one file."""
    folder = root / "changes"
    if not folder.is_dir() or not any(p.is_file() for p in folder.glob("*.md")):
        return ["changes/ holds no file: every change adds one, changes/<what>.md."]
    return []


# Docstrings and names


def objects_are_documented(root: Path) -> list[str]:
    """Public objects of methods and tools say what they take and return; those of methods show it."""
    breaches = []
    for source in sources(root):
        if source.unit is None and not source.is_tool:
            continue
        shown = []
        for node in source.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                breaches += [f"{source.path}: {b}" for b in _undocumented(node, of_method=source.unit is not None)]
                shown.append(node)
        takes_arrays = any(ARRAYS.search(_annotations(node)) for node in shown)
        docs = "\n".join(ast.get_docstring(n) or "" for o in shown for n in ast.walk(o) if isinstance(n, _DOCUMENTED))
        if takes_arrays and not SHAPE.search(docs):
            breaches.append(f'{source.path}: no docstring gives a shape such as "(n, d)" for its array arguments.')
    return breaches


_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _undocumented(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, *, of_method: bool, owner: str = ""
) -> list[str]:
    name, doc = f"{owner}{node.name}", ast.get_docstring(node) or ""
    if not doc:
        return [f"{name} has no docstring."]
    if isinstance(node, ast.ClassDef):
        breaches = []
        body = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        record = not any(n.name[0] != "_" for n in body) and not any(n.name == "__call__" for n in body)
        init = next((n for n in body if n.name == "__init__"), None)
        fields = _decorated(node, "dataclass") and any(isinstance(n, ast.AnnAssign) for n in node.body)
        if "Args:" not in doc and ((fields and of_method) or (init is not None and _arguments(init))):
            breaches.append(f"{name} takes arguments and its docstring has no Args.")
        if of_method and not (record and (fields or init is None)):
            texts = [doc, *(ast.get_docstring(n) or "" for n in body)]
            if not any(">>>" in text for text in texts):
                breaches.append(f"{name} shows no example (>>>).")
        for member in body:
            if member.name[0] != "_" and not _decorated(member, "overload"):
                breaches += _undocumented_member(member, f"{name}.", of_method=of_method)
        return breaches
    breaches = _without_sections(node, name, doc, may_be_small=not of_method)
    if of_method and ">>>" not in doc:
        breaches.append(f"{name} shows no example (>>>).")
    return breaches


def _undocumented_member(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, *, of_method: bool) -> list[str]:
    name, doc = f"{owner}{node.name}", ast.get_docstring(node) or ""
    if not doc:
        return [f"{name} has no docstring."]
    if not of_method or _decorated(node, "property") or _decorated(node, "cached_property"):
        return []
    return _without_sections(node, name, doc)


def _without_sections(
    node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, doc: str, *, may_be_small: bool = False
) -> list[str]:
    if may_be_small and len(_arguments(node)) <= SMALL and not ARRAYS.search(_annotations(node)):
        return []
    breaches = []
    if _arguments(node) and "Args:" not in doc:
        breaches.append(f"{name} takes arguments and its docstring has no Args.")
    if _returns(node) and "Returns:" not in doc and "Yields:" not in doc:
        breaches.append(f"{name} returns something and its docstring has no Returns.")
    return breaches


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    a = node.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, *(v for v in (a.vararg, a.kwarg) if v))]
    return [n for n in names if n not in ("self", "cls")]


def _returns(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    if node.returns is not None:
        return ast.unparse(node.returns) not in ("None", "NoReturn", "Never")
    return any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(node))


def _decorated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str) -> bool:
    return any(name in ast.unparse(d) for d in node.decorator_list)


def _annotations(node: ast.AST) -> str:
    found = [n.annotation for n in ast.walk(node) if isinstance(n, ast.arg) and n.annotation is not None]
    return " ".join(ast.unparse(a) for a in found)


def names_are_clear(root: Path) -> list[str]:
    """No drawers; a family exports no name that hides one of its modules; no name stands for two methods."""
    breaches, owner, home = [], {}, {}
    files = sources(root)
    for family, name in methods(root):
        if home.setdefault(name, family) != family:
            breaches.append(f"{family}/{name}: a method of {home[name]} has that name, and results are kept by name.")
    for source in files:
        if source.path.stem in DRAWERS or set(source.path.parent.parts) & set(DRAWERS):
            breaches.append(f"{source.path}: a file is named by what it does, not {source.path.stem!r}.")
        if source.path.name == "__init__.py" and source.path.parent.name in FAMILIES:
            modules = {s.path.relative_to(source.path.parent).parts[0].removesuffix(".py") for s in files
                       if source.path.parent in s.path.parents and s.path != source.path}  # fmt: skip
            breaches += [
                f"{source.path}: the export {i.name!r} hides the module of the same name."
                for i in imports(source)
                if i.name in modules and i.module != source.module
            ]
        for node in source.tree.body if source.unit is not None else ():
            if isinstance(node, _DOCUMENTED) and node.name[0] != "_":
                if node.name == source.path.stem:
                    breaches.append(f"{source.path}: {node.name} has the name of its module, so an export hides one.")
                first = owner.setdefault(node.name, source)
                if first.unit != source.unit:
                    breaches.append(f"{source.path}: the name {node.name} is taken by {first.path}.")
    return breaches


def files_are_short(root: Path) -> list[str]:
    """No file of the package is longer than 400 lines."""
    lengths = [(source.path, len(source.text.splitlines())) for source in sources(root)]
    return [f"{path} has {lines} lines, more than {LONGEST}: split it." for path, lines in lengths if lines > LONGEST]


# Imports


def methods_do_not_import_methods(root: Path) -> list[str]:
    """A mechanism that two methods want is a tool."""
    files = sources(root)
    known = {source.module: source for source in files}
    breaches = []
    for source in files:
        if source.unit is None:
            continue
        for imported in imports(source):
            other = known.get(_target(imported, known))
            if other is not None and other.unit not in (None, source.unit):
                breaches.append(
                    f"{source.path}, line {imported.line}: a method imports a method, {other.path}: "
                    "move what both want to a tool."
                )
    return breaches


def tools_import_tools(root: Path) -> list[str]:
    """A tool imports no family, unless inside a function."""
    breaches = []
    for source in sources(root):
        if source.is_tool and source.path.name != "cli.py":
            for imported in imports(source):
                reached = _parts(imported)
                if len(reached) > 1 and reached[1] in FAMILIES and not imported.inside:
                    breaches.append(
                        f"{source.path}, line {imported.line}: a tool imports the family {reached[1]}: "
                        "tools import tools."
                    )
    return breaches


def nothing_imports_the_outside(root: Path) -> list[str]:
    """Only cli imports cli; only cli, integrations and, inside functions, the two doors import integrations."""
    breaches = []
    for source in sources(root):
        home = source.path.parts[0].removesuffix(".py")
        for imported in imports(source):
            reached = _parts(imported)
            outside = reached[1] if len(reached) > 1 and reached[1] in ("cli", "integrations") else None
            door = str(source.path) in DOORS and imported.inside
            allowed = home == "cli" or (outside == "integrations" and (home == "integrations" or door))
            if outside is not None and not allowed:
                breaches.append(f"{source.path}, line {imported.line}: {outside} may not be imported here.")
    return breaches


def _parts(imported: Import) -> list[str]:
    """Parts of what is imported from tamis; of no interest otherwise."""
    parts = [*imported.module.split("."), *([imported.name] if imported.name else [])]
    return parts if parts[0] == "tamis" else []


# Code


def no_bare_except(root: Path) -> list[str]:
    """An except names what it catches."""
    return [
        f"{source.path}, line {node.lineno}: a bare except catches everything: name the error."
        for source in sources(root)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


_NUMPY_FINE = {
    "default_rng", "Generator", "RandomState", "SeedSequence", "BitGenerator", "PCG64", "PCG64DXSM", "Philox", "SFC64",
}  # fmt: skip
_TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
_TORCH_LIKES = {"rand_like", "randn_like", "randint_like"}
_TORCH_SEEDS = {
    "manual_seed", "seed", "set_rng_state", "random.manual_seed", "random.seed", "random.set_rng_state",
    "cuda.manual_seed", "cuda.manual_seed_all", "cuda.seed", "cuda.seed_all",
}  # fmt: skip
_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "cauchy_", "geometric_", "log_normal_"}


def no_global_randomness(root: Path) -> list[str]:
    """Randomness comes from a seed or generator that the caller gives."""
    breaches = []
    for source in sources(root):
        known = {}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                known |= {
                    a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
                }
            elif isinstance(node, ast.ImportFrom) and not node.level:
                known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        # fork_rng puts the global generators back, so what happens under it stays there.
        forked = [
            n for n in ast.walk(source.tree) if isinstance(n, ast.With) and "fork_rng(" in ast.unparse(n.items[0])
        ]
        safe = {id(inner) for n in forked for inner in ast.walk(n)}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and id(node) not in safe:
                called = _global_draw(node, known)
                if called:
                    breaches.append(
                        f"{source.path}, line {node.lineno}: {called} draws from or sets a global generator: "
                        "take a seed or a generator."
                    )
    return breaches


def _global_draw(call: ast.Call, known: dict[str, str]) -> str | None:
    """The name of a call that touches a global generator."""
    written = ast.unparse(call.func)
    head, _, rest = written.partition(".")
    name = f"{known[head]}.{rest}".rstrip(".") if head in known else ""
    seeded = any(k.arg == "generator" for k in call.keywords)
    library, _, function = re.sub(r"\(.*", "", name).partition(".")
    if library == "random" and function not in ("", "Random", "SystemRandom"):
        return name
    if library == "numpy" and function.startswith("random.") and function.split(".")[1] not in _NUMPY_FINE:
        return name
    if library == "torch" and (
        function in _TORCH_SEEDS or function in _TORCH_LIKES or (function in _TORCH_DRAWS and not seeded)
    ):
        return name
    if isinstance(call.func, ast.Attribute) and call.func.attr in _IN_PLACE and not seeded and not name:
        return written
    return None


def import_is_light(root: Path) -> list[str]:
    """``import tamis`` brings in neither torch nor NumPy; families load when they are asked for."""
    code = "import sys, tamis; print(*(m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return [f"`import tamis` fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}."]
    return [f"`import tamis` imports {heavy}: load it when it is asked for." for heavy in done.stdout.split()]


RULES = (
    methods_have_their_files,
    claims_have_results,
    method_fields_are_filled,
    changes_are_told,
    objects_are_documented,
    names_are_clear,
    files_are_short,
    methods_do_not_import_methods,
    tools_import_tools,
    nothing_imports_the_outside,
    no_bare_except,
    no_global_randomness,
    import_is_light,
)
