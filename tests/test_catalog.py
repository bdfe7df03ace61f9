"""The checkout keeps the rules of the house, and every rule can fail: small trees that break one are found out."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests import house_rules as rules

ROOT = Path(__file__).parent.parent

METHOD = '''
    """Sieve: what passes is kept."""

    import numpy as np

    from tamis import scales
    from tamis.method import Method

    METHOD = Method(
        title="Sieve: a method", paper="arXiv:2402.16829", year=2024, claim="The sieve beats the colander.",
    )


    def sift(embeddings: np.ndarray, *, k: int) -> np.ndarray:
        """Keep what passes; equation 1 of the paper.

        Args:
            embeddings: (n, d) float.
            k: mesh.

        Returns:
            (n,) bool.

        Example:
            >>> sift(np.ones((1, 1)), k=1)
            array([ True])
        """
        return scales.weigh(embeddings) >= k
'''
TOOL = '''
    """Scales: what weighs how much."""

    import numpy as np


    def weigh(embeddings: np.ndarray) -> np.ndarray:
        """Sum each row.

        Args:
            embeddings: (n, d) float.

        Returns:
            (n,) float.
        """
        return embeddings.sum(1)
'''
SOUND = {
    "src/tamis/__init__.py": '"""Tamis."""',
    "src/tamis/scales.py": TOOL,
    "src/tamis/encoders.py": '''
        """Encoders."""


        def load(name: str) -> object:
            """The encoder of a name."""
            from tamis.integrations.torches import wrap

            return wrap(name)
    ''',
    "src/tamis/integrations/__init__.py": '"""Integrations."""',
    "src/tamis/integrations/torches.py": '"""Torches."""\n\nfrom tamis.integrations import other\n',
    "src/tamis/cli/__init__.py": '"""The command line."""\n\nfrom tamis.cli import main\nimport tamis.integrations\n',
    "src/tamis/negatives/__init__.py": '"""Negatives."""\n\nfrom tamis.negatives.sieve import sift as sift\n',
    "src/tamis/negatives/sieve.py": METHOD,
    "src/tamis/losses/__init__.py": '"""Losses."""\n\nfrom tamis.losses.colander import strain as strain\n',
    "src/tamis/losses/colander/__init__.py": '''
        """Colander: a method in a folder."""

        from tamis.losses.colander.holes import strain as strain
        from tamis.method import Method

        METHOD = Method(title="Colander", paper="staple", year=2026, claim="Water leaves.")
    ''',
    "src/tamis/losses/colander/holes.py": '''
        """Holes."""


        def strain() -> None:
            """Let the water out.

            Example:
                >>> strain()
            """
    ''',
    "tests/negatives/test_sieve.py": "",
    "tests/losses/test_colander.py": "",
    "claims/negatives/sieve.py": "CLAIM = Claim(metric='x', method='a', baseline='b', at_least=0, seeds=2)\n",
    "claims/losses/colander.py": "CLAIM = Claim(metric='x', method='a', baseline='b', at_least=0)\n",
    "claims/results/sieve.json": json.dumps({"status": "holds", "seeds": 2, "rows": [{}, {}]}),
    "claims/results/colander.json": json.dumps({"status": "fails", "seeds": 5, "rows": [{}] * 5}),
    "changes/sieve.md": "A sieve.\n",
}


def write(root: Path, files: dict[str, str | None]) -> Path:
    """Write a tree; None leaves a file out."""
    for name, text in files.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_checkout_keeps_the_rule(rule):
    """Each breach is a sentence that says where and what to do."""
    breaches = rule(ROOT)
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_sound_tree_keeps_the_rule(rule, tmp_path):
    """No rule finds fault with a small tree that is in order: a method, a method folder, a tool and the doors."""
    assert rule(write(tmp_path, SOUND)) == []


def changed(name: str, old: str, new: str) -> dict[str, str | None]:
    """A sound tree with one passage of one file changed."""
    text = SOUND[name]
    assert text is not None
    assert old in text
    return {name: text.replace(old, new)}


SIEVE, SCALES, HOLES = "src/tamis/negatives/sieve.py", "src/tamis/scales.py", "src/tamis/losses/colander/holes.py"
ADDED_CODE = "from tamis import scales\n"
BREACHES = {
    # the four files
    "no test": (rules.methods_have_their_files, {"tests/negatives/test_sieve.py": None}, "has no test: write tests/"),
    "no claim": (rules.methods_have_their_files, {"claims/losses/colander.py": None}, "losses/colander has no claim"),
    "no export": (
        rules.methods_have_their_files,
        {"src/tamis/negatives/__init__.py": '"""Negatives."""'},
        "negatives/__init__.py does not export sieve: add `from tamis.negatives.sieve import X as X`",
    ),
    "no family file": (
        rules.methods_have_their_files,
        {"src/tamis/negatives/__init__.py": None},
        "does not export sieve",
    ),
    "bare export": (
        rules.methods_have_their_files,
        changed("src/tamis/negatives/__init__.py", "sift as sift", "sift"),
        "must export sift in the form `sift as sift`",
    ),
    # claims
    "no result": (rules.claims_have_results, {"claims/results/sieve.json": None}, "has no result: run its claim"),
    "broken result": (rules.claims_have_results, {"claims/results/sieve.json": "{"}, "is not a whole result"),
    "result without rows": (rules.claims_have_results, {"claims/results/sieve.json": "{}"}, "KeyError 'status'"),
    "unknown status": (
        rules.claims_have_results,
        {"claims/results/sieve.json": '{"status": "great", "seeds": 2, "rows": [{}, {}]}'},
        "has the status 'great', not one of holds",
    ),
    "missing rows": (
        rules.claims_have_results,
        {"claims/results/sieve.json": '{"status": "holds", "seeds": 2, "rows": [{}]}'},
        "has 1 rows for 2 seeds, and the claim asks for 2",
    ),
    "fewer seeds than asked": (
        rules.claims_have_results,
        {"claims/results/colander.json": '{"status": "holds", "seeds": 2, "rows": [{}, {}]}'},
        "has 2 rows for 2 seeds, and the claim asks for 5",
    ),
    # fields
    "empty title": (rules.method_fields_are_filled, changed(SIEVE, "Sieve: a method", " "), "field 'title' of METHOD"),
    "empty claim": (
        rules.method_fields_are_filled,
        changed(SIEVE, "The sieve beats the colander.", ""),
        "negatives/sieve: the field 'claim' of METHOD is empty",
    ),
    "no year": (rules.method_fields_are_filled, changed(SIEVE, "year=2024, ", ""), "METHOD cannot be read"),
    "odd year": (rules.method_fields_are_filled, changed(SIEVE, "2024", "24"), "not 24"),
    "odd paper": (rules.method_fields_are_filled, changed(SIEVE, "arXiv:", "arxiv "), "got 'arxiv 2402.16829'"),
    "unknown field": (rules.method_fields_are_filled, changed(SIEVE, "year=", "stars=5, year="), "unknown fields"),
    "no literal": (rules.method_fields_are_filled, changed(SIEVE, "year=2024", "year=now()"), "cannot be read"),
    "no change": (rules.changes_are_told, {"changes/sieve.md": None}, "changes/ holds no file"),
    # docstrings
    "no docstring": (rules.objects_are_documented, {SCALES: "def weigh():\n    return 1\n"}, "weigh has no docstring"),
    "no Args": (rules.objects_are_documented, changed(SIEVE, "Args:", "Given:"), "sift takes arguments and"),
    "no Returns": (rules.objects_are_documented, changed(SIEVE, "Returns:", "Gives:"), "sift returns something and"),
    "no Args in a tool": (rules.objects_are_documented, changed(SCALES, "Args:", "Given:"), "scales.py: weigh takes"),
    "no example": (rules.objects_are_documented, changed(SIEVE, ">>>", ">>"), "sift shows no example (>>>)"),
    "no example in a folder": (rules.objects_are_documented, changed(HOLES, ">>>", ">>"), "strain shows no example"),
    "no shapes": (
        rules.objects_are_documented,
        {SCALES: TOOL.replace("(n, d)", "rows of").replace("(n,)", "vector of")},
        'scales.py: no docstring gives a shape such as "(n, d)"',
    ),
    "many arguments in one line": (
        rules.objects_are_documented,
        {SCALES: 'def add(a: int, b: int, c: int) -> int:\n    """Add three numbers."""\n    return a + b + c\n'},
        "add takes arguments",
    ),
    "undocumented method of a class": (
        rules.objects_are_documented,
        {SCALES: 'class Scale:\n    """A scale."""\n\n    def weigh(self):\n        return 1\n'},
        "Scale.weigh has no docstring",
    ),
    "forward without Args": (
        rules.objects_are_documented,
        {
            SIEVE: METHOD
            + '\n\n    class Loss:\n        """A loss.\n\n        >>> 1\n        1\n        """\n'
            + '\n        def forward(self, x: int) -> int:\n            """The loss."""\n            return x\n'
        },
        "Loss.forward takes arguments",
    ),
    "class without Args": (
        rules.objects_are_documented,
        {SCALES: 'class Scale:\n    """A scale."""\n\n    def __init__(self, size):\n        self.size = size\n'},
        "Scale takes arguments",
    ),
    # names
    "drawer": (rules.names_are_clear, {"src/tamis/utils.py": ""}, "utils.py: a file is named by what it does"),
    "drawer in a family": (rules.names_are_clear, {"src/tamis/losses/helpers.py": ""}, "helpers.py: a file is named"),
    "drawer as a folder": (rules.names_are_clear, {"src/tamis/common/sums.py": ""}, "sums.py: a file is named"),
    "object with its module's name": (
        rules.names_are_clear,
        changed(SIEVE, "def sift(", "def sieve("),
        "sieve has the name of its module",
    ),
    "export that hides a module": (
        rules.names_are_clear,
        {
            "src/tamis/negatives/rules.py": "",
            "src/tamis/negatives/__init__.py": "from tamis.negatives.sieve import rules as rules\n",
        },
        "the export 'rules' hides the module",
    ),
    "name of two methods": (
        rules.names_are_clear,
        {HOLES: SOUND[HOLES].replace("strain", "sift")},
        "sieve.py: the name sift is taken by losses/colander/holes.py",
    ),
    "two methods of one name": (
        rules.names_are_clear,
        {"src/tamis/losses/sieve.py": METHOD.replace("sift", "sieved")},
        "a method of losses has that name",
    ),
    "long file": (rules.files_are_short, {SCALES: "\n" + "x = 1\n" * 401}, "has 401 lines, more than 400"),
    # imports
    "method imports method": (
        rules.methods_do_not_import_methods,
        changed(HOLES, '"""Holes."""', '"""Holes."""\n\n        from tamis.negatives.sieve import sift'),
        "a method imports a method",
    ),
    "method imports method by its module": (
        rules.methods_do_not_import_methods,
        changed(HOLES, '"""Holes."""', '"""Holes."""\n\n        import tamis.negatives.sieve'),
        "line 3: a method imports a method",
    ),
    "method imports method through the family": (
        rules.methods_do_not_import_methods,
        changed(HOLES, '"""Holes."""', '"""Holes."""\n\n        from tamis.negatives import sift'),
        "a method imports a method",
    ),
    "method imports method inside a function": (
        rules.methods_do_not_import_methods,
        changed(SIEVE, "return scales", "from tamis.losses import strain\n\n        return scales"),
        "a method imports a method",
    ),
    "method imports method relatively": (
        rules.methods_do_not_import_methods,
        changed(SIEVE, "from tamis import scales", "from ..losses.colander.holes import strain"),
        "a method imports a method",
    ),
    "tool imports family": (
        rules.tools_import_tools,
        {SCALES: "from tamis.negatives.rules import Rules\n"},
        "a tool imports the family negatives",
    ),
    "tool imports family as a name": (
        rules.tools_import_tools,
        {SCALES: "from tamis import losses\n"},
        "family losses",
    ),
    "tool imports family relatively": (rules.tools_import_tools, {SCALES: "from . import losses\n"}, "family losses"),
    "tool imports family in a try": (
        rules.tools_import_tools,
        {SCALES: "try:\n    import tamis.optim\nexcept ImportError:\n    pass\n"},
        "family optim",
    ),
    "method imports integrations": (
        rules.nothing_imports_the_outside,
        changed(SIEVE, "from tamis import scales", "from tamis.integrations import torches"),
        "integrations may not be imported here",
    ),
    "tool imports integrations in a function": (
        rules.nothing_imports_the_outside,
        {SCALES: "def weigh():\n    import tamis.integrations.torches\n"},
        "scales.py, line 2: integrations may not",
    ),
    "door imports integrations at the top": (
        rules.nothing_imports_the_outside,
        {"src/tamis/encoders.py": "from tamis.integrations import torches\n"},
        "encoders.py, line 1: integrations may not",
    ),
    "door imports cli": (
        rules.nothing_imports_the_outside,
        {"src/tamis/encoders.py": "def f():\n    from tamis import cli\n"},
        "cli may not be imported",
    ),
    "integration imports cli": (
        rules.nothing_imports_the_outside,
        {"src/tamis/integrations/torches.py": "from tamis.cli import main\n"},
        "cli may not be imported",
    ),
    # code
    "bare except": (rules.no_bare_except, {SCALES: "try:\n    x = 1\nexcept:\n    x = 2\n"}, "line 3: a bare except"),
    "heavy import": (rules.import_is_light, {"src/tamis/__init__.py": "import numpy\n"}, "imports numpy: load it"),
    "broken import": (rules.import_is_light, {"src/tamis/__init__.py": "import nothing_there\n"}, "fails: ModuleNot"),
}


@pytest.mark.parametrize(("rule", "files", "sentence"), BREACHES.values(), ids=BREACHES)
def test_every_rule_can_fail(rule, files, sentence, tmp_path):
    """A sound tree with one thing broken gives a breach with the expected sentence, from the rule it belongs to."""
    breaches = rule(write(tmp_path, {**SOUND, **files}))
    assert any(sentence in breach for breach in breaches), breaches
    assert all(breach.endswith(".") for breach in breaches)


GLOBAL = """
    import numpy as np
    np.random.seed(0)
    np.random.rand(3)
    np.random.shuffle([1])
    from numpy import random as npr
    npr.normal()
    from numpy.random import randint
    randint(3)
    import numpy
    numpy.random.choice(3)
    import torch
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)
    torch.randn(3)
    torch.randperm(4, device="cpu")
    torch.rand_like(x)
    x.normal_()
    x[0].uniform_(0, 1)
    import random
    random.random()
    random.seed(1)
    from random import shuffle
    shuffle([1])
"""
FINE = """
    import numpy as np
    import torch
    import random
    rng = np.random.default_rng(0)
    rng.random(3)
    rng.normal(size=3)
    np.random.Generator(np.random.PCG64(1))
    torch.randn(3, generator=g)
    torch.Generator().manual_seed(0)
    x.normal_(generator=g)
    random.Random(0).shuffle([1])
    np.random.default_rng(0).shuffle([1])
    seed.random()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_rng_state(state)
"""


def test_global_randomness_is_found_line_by_line(tmp_path):
    """Every call on a global generator of random, NumPy or torch is found, by whatever name it was imported."""
    breaches = rules.no_global_randomness(write(tmp_path, {**SOUND, SCALES: GLOBAL}))
    lines = [i for i, line in enumerate(textwrap.dedent(GLOBAL).strip().splitlines(), 1) if "import" not in line]
    assert [int(b.split("line ")[1].split(":")[0]) for b in breaches] == lines


def test_generators_are_fine(tmp_path):
    """Draws from a generator, and what happens under fork_rng, are no breach."""
    assert rules.no_global_randomness(write(tmp_path, {**SOUND, SCALES: FINE})) == []


def test_a_method_may_import_its_own_folder_and_its_family_s_support(tmp_path):
    """Files of one method import each other, and files without METHOD are no methods."""
    support = {"src/tamis/negatives/filters.py": '"""Filters."""'}
    method = changed(SIEVE, "from tamis import scales", "from tamis.negatives import filters")
    own = changed(HOLES, '"""Holes."""', '"""Holes."""\n\n        from tamis.losses.colander import METHOD')
    assert rules.methods_do_not_import_methods(write(tmp_path, {**SOUND, **support, **method, **own})) == []


def test_the_catalogue_finds_what_the_reader_finds():
    """The rules and tamis.method agree on what the methods are."""
    from tamis.method import read_catalog

    assert sorted(rules.methods(ROOT)) == sorted((entry.family, entry.name) for entry in read_catalog())
