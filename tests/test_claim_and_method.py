"""The catalogue is read by parsing; the runner judges claims as they are stated."""

from __future__ import annotations

import json

import pytest

from tamis import claim, method
from tamis.claim import Claim, Gate

SCRIPT = """
from tamis.claim import Claim, Gate
CLAIM = Claim(metric="score", method="ours", baseline="theirs", at_least=0.1, seeds=3,
              gates=(Gate(says="ours reaches 0.5", higher="ours", at_least=0.5),))
def run(seed):
    return {"ours": 0.5 + 0.1 * seed, "theirs": 0.3}
"""


def judged(ours, at_least=0.1, every_seed=False, gates=()):
    stated = Claim(metric="m", method="a", baseline="b", at_least=at_least, every_seed=every_seed, gates=gates)
    return claim.judge(stated, [{"a": a, "b": 0.0} for a in ours])


def test_verdicts():
    """All gates met holds, only the main one holds in part, the main one missed fails."""
    assert judged([0.1, 0.2])["status"] == "holds"
    assert judged([0.1, 0.05])["status"] == "fails"
    assert judged([0.4, -0.1], every_seed=True)["status"] == "fails"
    missed = Gate(says="a is 1", higher="a", at_least=1.0)
    found = judged([0.4, 0.4], gates=(missed,))
    assert found["status"] == "holds in part"
    assert found["gates"][0]["measured"] == pytest.approx(0.4) and not found["gates"][0]["met"]
    every = Gate(says="a above b for every seed", higher="a", lower="b", at_least=0.3, every_seed=True)
    assert judged([0.9, 0.2], gates=(every,))["status"] == "holds in part"


def test_the_runner_writes_what_came_out(tmp_path):
    """The result file holds a row per seed; a quick look with fewer seeds writes nothing."""
    script = tmp_path / "losses" / "thing.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    claim.run_script(script, seeds=2, root=tmp_path)
    assert not (tmp_path / "results").exists()
    result = claim.run_script(script, root=tmp_path)
    stored = json.loads((tmp_path / "results" / "thing.json").read_text())
    assert stored == result and len(stored["rows"]) == 3 and stored["status"] == "holds"
    assert method.status_of("thing", tmp_path) == "holds" and method.status_of("other", tmp_path) == "not run"
    assert [p.stem for p in claim.find_scripts(root=tmp_path)] == ["thing"]
    with pytest.raises(ValueError, match="no claim is called 'nothing'; there are: thing"):
        claim.find_scripts("nothing", tmp_path)


def test_methods_are_read_without_being_run(tmp_path):
    """A METHOD literal is found although the file would fail to import; anything but literals is refused."""
    good = tmp_path / "a.py"
    good.write_text('import nowhere\nMETHOD = Method(title="T", paper="staple", year=2026, claim="C")\n')
    assert method.read_method(good) == method.Method(title="T", paper="staple", year=2026, claim="C")
    good.write_text("x = 1\n")
    assert method.read_method(good) is None
    good.write_text('METHOD = Method(title="T", colour="red")\n')
    with pytest.raises(ValueError, match="unknown fields"):
        method.read_method(good)
    good.write_text("METHOD = make()\n".replace("make()", "3"))
    with pytest.raises(ValueError, match="must be a call of Method"):
        method.read_method(good)
