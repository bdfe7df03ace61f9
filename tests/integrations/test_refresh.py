"""Refresh: mined again with the weights of the moment, what changed is counted, and training goes on undisturbed."""

from __future__ import annotations

import copy
import inspect
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tamis import cli, encoders, runs
from tamis.data import from_python
from tamis.integrations import objectives
from tamis.negatives.mine import mine_negatives
from tests import tiny as tiny_model
from tests import verses

pytest.importorskip("sentence_transformers")
training = pytest.importorskip("tamis.integrations.training")
refreshing = pytest.importorskip("tamis.integrations.refresh")
from tamis.batches import NoDuplicatesBatchSampler  # noqa: E402
from tamis.integrations.sentence_transformers import SentenceEncoder  # noqa: E402

QUERIES, STRANGERS = 48, 60
SETTINGS = (
    {"percentage": 0.98, "negatives": 3},
    {"max_survival": 0.3, "negatives": 2, "against": "highest"},
    {"calibrate": "margin", "negatives": 2},
    {"negatives": 2},
    {"relative_margin": 0.01, "negatives": 2, "pick": "random", "seed": 5, "first_rank": 2, "last_rank": 30},
    {"absolute_margin": 0.001, "negatives": 4, "pick": "softmax", "pick_temperature": 0.2, "depth": 20},
    {"percentage": 0.98, "negatives": 3, "candidates_from": "both", "max_score": 0.99, "min_score": -0.5},
    {"max_survival": 1.0, "negatives": 2, "similarity": "dot", "query_prompt": "and he "},
)


@pytest.fixture(scope="module")
def data():
    """Some verses: a few queries know two answers, and there are passages that answer none."""
    rows = verses.rows()[: QUERIES + STRANGERS]
    corpus = {f"kjv {k}": seen for k, _, seen, _ in rows} | {f"asv {k}": hidden for k, _, _, hidden in rows[:QUERIES]}
    answers = {k: [f"kjv {k}", f"asv {k}"] if i < 30 else [f"kjv {k}"] for i, (k, _, _, _) in enumerate(rows[:QUERIES])}
    return from_python({k: q for k, q, _, _ in rows[:QUERIES]}, corpus, answers, name="some verses")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of the tiny model."""
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(tiny):
    """That model in memory, ready to be changed."""
    return SentenceEncoder.load(str(tiny)).model


def shake(model, scale=0.3):
    """Change all weights in place."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def pairs(mined):
    """What a mined set says: every negative with its rank and score."""
    return {name: values.tolist() for name, values in mined.negatives.items()}


# --- What is mined -----------------------------------------------------------------------------------------------


def test_the_summary_tells_every_setting():
    """Every argument of mining that decides something stands in the summary; the rest is data, models and means."""
    names = set(inspect.signature(mine_negatives).parameters)
    mined = mine_negatives(
        ["a"], ["b", "c"], [[0]], query_embeddings=np.ones((1, 2)), corpus_embeddings=np.ones((2, 2))
    )
    given = {"queries", "corpus", "positives", "encoder", "query_embeddings", "corpus_embeddings", "guide"}
    refused = {
        "runs",
        *(name for name in names if name.split("_")[0] in ("cross", "judge")),
    }  # see the test of refusals
    assert names - set(refreshing.settings_of(mined)) <= given | refused | {
        "max_memory",
        "folder",
        "progress",
        "engine",
    }


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s)))
def test_with_equal_weights_the_same_comes_out(data, settings, tmp_path):
    """The settings of a saved run lead to the same negatives, whatever they are, and nothing counts as changed."""
    encoder = verses.LetterEncoder()
    mined = mine_negatives(data, encoder=encoder, **settings)
    mined.save(tmp_path)
    loaded = runs.load(tmp_path)
    again = refreshing.refresh(loaded, encoder)
    assert pairs(again.mined) == pairs(mined) and len(mined) > 0
    assert again.report["changed"]["share"] == 0.0 and again.report["changed"]["jaccard"] == 1.0
    assert again.report["hardness"]["before"] == again.report["hardness"]["after"]
    assert refreshing.settings_of(again.mined) == refreshing.settings_of(loaded)


def test_a_margin_chosen_from_the_data_is_chosen_anew(data):
    """With max_survival the margin of the refresh is the one that mining with the new weights would choose."""
    mined = mine_negatives(data, encoder=verses.LetterEncoder(), max_survival=0.3, negatives=2)
    other = verses.LetterEncoder(salt=77)
    again = refreshing.refresh(mined, other)
    separate = mine_negatives(data, encoder=other, max_survival=0.3, negatives=2)
    assert pairs(again.mined) == pairs(separate)
    margins = {"before": mined.summary["audit"]["margin"], "after": separate.summary["audit"]["margin"]}
    assert again.report["margin"] == margins and margins["before"] != margins["after"]
    text = refreshing.line(again.report | {"epoch": 1, "step": 3}, queries=QUERIES)
    assert f"; margin {margins['before']['kind']} {margins['before']['value']:.4f} -> " in text


def test_changed_weights_are_never_answered_with_old_vectors(data, model, tmp_path):
    """After a change of the weights in place all texts are encoded again, and the result is that of a fresh run."""
    first = mine_negatives(data, encoder=model, percentage=1.0, negatives=3, folder=tmp_path / "mined")
    kept = {p: p.read_bytes() for p in (tmp_path / "mined").rglob("*") if p.is_file()}
    same = refreshing.refresh(first, model, folder=tmp_path / "own", known=tmp_path / "mined")
    assert same.report["texts_encoded"] == 0 and not (tmp_path / "own").exists()
    vectors = [np.array(same.queries)]
    for _ in range(2):
        shake(model)
        again = refreshing.refresh(first, model, folder=tmp_path / "own", known=tmp_path / "mined")
        assert again.report["texts_encoded"] == len(data.queries) + len(data.corpus)
        assert np.array_equal(again.queries, SentenceEncoder(model).encode(data.queries.texts))
        assert all(np.abs(again.queries - old).max() > 1e-3 for old in vectors)
        assert pairs(again.mined) == pairs(mine_negatives(data, encoder=model, percentage=1.0, negatives=3))
        vectors.append(np.array(again.queries))
        # One generation on disk beside the mining run's own, which nobody touched.
        files = sorted(p.name for p in (tmp_path / "own").rglob("*") if p.is_file())
        assert files == ["corpus.json", "corpus.npy", "queries.json", "queries.npy"]
    assert kept == {p: p.read_bytes() for p in (tmp_path / "mined").rglob("*") if p.is_file()}
    once_more = refreshing.refresh(first, model, folder=tmp_path / "own", known=tmp_path / "mined")
    assert once_more.report["texts_encoded"] == 0 and pairs(once_more.mined) == pairs(again.mined)


def test_old_vectors_in_use_stay_what_they_are(data, tmp_path):
    """A memory map of the old generation keeps its numbers while the new one is written under the same name."""
    texts = data.queries.texts
    old = encoders.encode(verses.LetterEncoder(), texts, folder=tmp_path, stem="queries")
    before = np.array(old)
    encoders.encode(verses.LetterEncoder(salt=9), texts, folder=tmp_path, stem="queries")
    assert np.array_equal(old, before)


def test_a_refresh_that_was_stopped_goes_on(data, tmp_path, monkeypatch):
    """Shards that were done before a stop are not encoded again under equal weights."""
    monkeypatch.setattr(encoders, "SHARD", 16)

    class Slow(verses.LetterEncoder):
        def fingerprint(self):
            return f"letters {self.salt}"

        def encode(self, texts):
            if self.calls >= stop:
                raise KeyboardInterrupt
            return super().encode(texts)

    mined, stop = mine_negatives(data, encoder=verses.LetterEncoder(), percentage=0.98, negatives=3), 64
    with pytest.raises(KeyboardInterrupt):
        refreshing.refresh(mined, Slow(salt=5), folder=tmp_path)
    stop = 10**9
    rest = refreshing.refresh(mined, Slow(salt=5), folder=tmp_path)
    assert rest.report["texts_encoded"] == len(data.queries) + len(data.corpus) - 64
    assert pairs(rest.mined) == pairs(refreshing.refresh(mined, Slow(salt=5)).mined)


def test_the_guide_is_asked_for_and_encoded_once(data, tmp_path):
    """Negatives mined with a guide are refreshed with it, and its vectors come from the mining run."""

    class Guide(verses.LetterEncoder):
        def fingerprint(self):
            return "guide"

    mined = mine_negatives(
        data,
        encoder=verses.LetterEncoder(),
        guide=Guide(salt=3),
        percentage=1.0,
        negatives=3,
        folder=tmp_path / "mined",
    )
    new, guide = verses.LetterEncoder(salt=8), Guide(salt=3)
    with pytest.raises(ValueError, match="guide must be given: these negatives were mined with the guide 'letters'"):
        refreshing.refresh(mined, new)
    again = refreshing.refresh(mined, new, guide=guide, folder=tmp_path / "own", known=tmp_path / "mined")
    assert guide.calls == 0
    assert pairs(again.mined) == pairs(mine_negatives(data, encoder=new, guide=guide, percentage=1.0, negatives=3))
    assert refreshing.settings_of(again.mined) == refreshing.settings_of(mined)
    refreshing.check(again.mined, guide)


# --- What changed ------------------------------------------------------------------------------------------------


def holding(rows):
    """A stand-in for mined negatives of three queries and ten passages."""
    query, negative = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
    return SimpleNamespace(queries=range(3), corpus=range(10), negatives={"query": query, "negative": negative})


def test_what_changed_is_counted():
    """Two sets whose differences are counted by hand; with a limit only the first of every query."""
    before = holding([(0, 1), (0, 2), (1, 1), (1, 3)])
    after = holding([(0, 2), (0, 4), (1, 1), (1, 3), (2, 5)])
    found = refreshing.changed(before, after)
    assert found == {
        "before": 4, "after": 5, "gone": 1, "new": 2, "share": 1 - 3 / 5,
        "jaccard": pytest.approx((1 / 3 + 1 + 0) / 3), "queries": 2, "queries_without": 0,
    }  # fmt: skip
    first = refreshing.changed(before, after, limit=1)
    assert (first["before"], first["after"], first["gone"], first["new"]) == (2, 3, 1, 2)
    empty = refreshing.changed(holding([]), holding([]))
    assert empty["share"] is None and empty["jaccard"] is None and empty["queries_without"] == 3


def test_what_changed_equals_sets_in_a_loop():
    """On random sets the counts are those of Python's sets, query by query."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sets = [{(int(q), int(n)) for q, n in rng.integers(0, (3, 10), (rng.integers(0, 14), 2))} for _ in range(2)]
        found = refreshing.changed(*(holding(sorted(s)) for s in sets))
        old, new = ([{n for q, n in s if q == row} for row in range(3)] for s in sets)
        both = list(zip(old, new, strict=True))
        assert found["gone"] == sum(len(a - b) for a, b in both) and found["new"] == sum(len(b - a) for a, b in both)
        assert found["queries"] == sum(a != b for a, b in both)
        scores = [len(a & b) / len(a | b) for a, b in both if a | b]
        assert found["jaccard"] == (pytest.approx(np.mean(scores)) if scores else None)


def test_hardness_equals_plain_loops(data):
    """Score and slack of both sets are means of cosines under the new vectors, the positive being the lowest."""
    new = verses.LetterEncoder(salt=40)
    mined = mine_negatives(data, encoder=verses.LetterEncoder(), percentage=1.0, negatives=3)
    again = refreshing.refresh(mined, new, negatives=2)
    vectors = [new.encode(t).astype(np.float64) for t in (data.queries.texts, data.corpus.texts)]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    for name, source in (("before", mined), ("after", again.mined)):
        seen, scores, slack = Counter(), [], []
        for q, n in zip(source.negatives["query"].tolist(), source.negatives["negative"].tolist(), strict=True):
            seen[q] += 1
            if seen[q] <= 2:
                scores.append(unit[0][q] @ unit[1][n])
                slack.append(min(unit[0][q] @ unit[1][p] for p in data.positives[q]) - scores[-1])
        assert again.report["hardness"][name]["score"] == pytest.approx(np.mean(scores), abs=1e-6)
        assert again.report["hardness"][name]["slack"] == pytest.approx(np.mean(slack), abs=1e-6)


def test_the_line(data):
    """The line for people says what was encoded, what changed and how hard it is; dashes where nothing is."""
    mined = mine_negatives(data, encoder=verses.LetterEncoder(), percentage=0.98, negatives=3)
    report = refreshing.refresh(mined, verses.LetterEncoder()).report | {"epoch": 1, "step": 3}
    text = refreshing.line(report, queries=48)
    assert (
        text.startswith("Refresh  after epoch 1, step 3: ")
        and "0.0 % of the negatives changed" in text
        and "margin" not in text
    )
    none = {
        "changed": {"share": None, "jaccard": None},
        "hardness": {side: {"score": None, "slack": None} for side in ("before", "after")},
    }
    assert "no negatives changed; under these weights mean score - -> -" in refreshing.line(report | none, queries=3)


# --- In a training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mined(data, tiny, tmp_path_factory):
    """Negatives mined with the tiny model, saved with its vectors."""
    folder = tmp_path_factory.mktemp("mined")
    with runs.locked(folder):
        found = mine_negatives(data, encoder=str(tiny), percentage=1.0, negatives=3, folder=folder)
        runs.save(found, folder, key="")
    return runs.load(folder), folder


def fit(model, mined, output, objective=None, **options):
    """Train for three epochs of a few steps, and hand back what ``train`` says."""
    rows = training.MinedRows(mined[0], negatives=3)
    sampler = NoDuplicatesBatchSampler(rows.keys(), 16, min_batch_size=8, seed=0)
    settings = {"epochs": 3.0, "learning_rate": 5e-3, "negatives": 3, "known": mined[1], "output": output} | options
    return training.train(model, mined[0], objective or objectives.contrastive(), batch_sampler=sampler, **settings)


@pytest.mark.slow
def test_each_epoch_learns_from_the_negatives_of_its_weights(mined, model, data, tmp_path, monkeypatch):
    """After each epoch the rows hold what a separate mining with the weights of that moment finds, and batches too."""
    weights, seen, fresh = [], {0: []}, []

    def watched(current, live, **options):
        weights.append(copy.deepcopy(live))
        seen[len(weights)] = []
        fresh.append(refreshing.refresh(current, live, **options))
        return fresh[-1]

    def objective(queries, positives, negatives, facts):
        seen[len(weights)].append((facts.queries.tolist(), facts.passages[len(queries) :].tolist()))
        return objectives.contrastive()(queries, positives, negatives, facts)

    monkeypatch.setattr(training, "refresh", watched)
    told = []
    done = fit(model, mined, tmp_path / "a", objective, refresh_every=1, on_refresh=told.append)
    assert [r["epoch"] for r in done["refreshes"]] == [1, 2] and told == fresh
    assert [r["step"] for r in done["refreshes"]] == [done["steps"] // 3, done["steps"] // 3 * 2]
    for at, (moment, found) in enumerate(zip(weights, fresh, strict=True), 1):
        separate = mine_negatives(data, encoder=moment, percentage=1.0, negatives=3)
        assert pairs(found.mined) == pairs(separate)
        assert done["refreshes"][at - 1]["texts_encoded"] == len(data.queries) + len(data.corpus)
        assert done["refreshes"][at - 1]["changed"]["share"] > 0.05
        own = {q: set() for q in range(len(data.queries))}
        for q, n in zip(separate.negatives["query"].tolist(), separate.negatives["negative"].tolist(), strict=True):
            own[q].add(n)
        assert seen[at]
        for queries, passages in seen[at]:
            positives = {p for q in queries for p in data.positives[q].tolist()}
            wanted = set().union(*(own[q] for q in queries))
            assert set(passages) <= wanted and wanted - positives <= set(passages)
    # Each refresh is compared with the one before it, not with the first mining.
    assert done["refreshes"][1]["changed"] == refreshing.changed(fresh[0].mined, fresh[1].mined, limit=3)
    assert done["refreshes"][1]["changed"] != refreshing.changed(mined[0], fresh[1].mined, limit=3)
    assert not (tmp_path / "a" / training.VECTORS).exists()
    assert not model.training


@pytest.mark.slow
def test_optimiser_schedule_and_draws_go_on(mined, tiny, tmp_path, monkeypatch):
    """A refresh that finds the same negatives leaves the training bit for bit what it is without refreshes."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps, state, rates, ends = [], [], [], []

    def watch(optimizer, *_):
        steps.append(id(optimizer))
        state.append(max(int(s["step"]) for s in optimizer.state.values()))
        rates.append(optimizer.param_groups[0]["lr"])

    def same(current, live, **options):
        found = refreshing.refresh(current, live, **options)  # encodes and mines, and is then thrown away
        return refreshing.Refreshed(current, found.queries, found.report)

    monkeypatch.setattr(training, "refresh", same)
    handle = register_optimizer_step_post_hook(watch)
    try:
        for every in (None, 1):
            for log in (steps, state, rates):
                log.clear()
            model = SentenceEncoder.load(str(tiny)).model
            done = fit(model, mined, tmp_path / str(every), refresh_every=every)
            assert len(set(steps)) == 1 and state == list(range(1, done["steps"] + 1))
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            ends.append((done["steps"], done["loss"], list(rates), weights, len(done["refreshes"])))
    finally:
        handle.remove()
    plain, refreshed = ends
    assert plain[:3] == refreshed[:3] and (plain[4], refreshed[4]) == (0, 2)
    assert all(torch.equal(value, refreshed[3][name]) for name, value in plain[3].items())


@pytest.mark.slow
def test_weights_that_stand_still_cost_nothing(mined, model, data, tmp_path):
    """With a learning rate of 0 no text is encoded again and no negative changes, from one refresh to the next."""
    lines = []
    fit(
        model, mined, tmp_path, learning_rate=0.0, refresh_every=1,
        on_refresh=lambda found: lines.append(refreshing.line(found.report, queries=len(data.queries))),
    )  # fmt: skip
    assert len(lines) == 2
    assert all("0 texts encoded again, 0.0 % of the negatives changed (0 of 48 queries" in text for text in lines)


@pytest.mark.slow
def test_refreshes_come_as_often_as_asked(mined, model, tmp_path):
    """Every second epoch, and with steps that end inside an epoch none after the last step; equal seeds, equal ends."""
    ends = []
    for name in "ab":
        trained = copy.deepcopy(model)
        rows = training.MinedRows(mined[0], negatives=3)
        per_epoch = len(NoDuplicatesBatchSampler(rows.keys(), 16, min_batch_size=8, seed=0))
        done = fit(trained, mined, tmp_path / name, steps=4 * per_epoch + 1, refresh_every=2)
        assert done["steps"] == 4 * per_epoch + 1 and [r["epoch"] for r in done["refreshes"]] == [2, 4]
        ends.append((trained.state_dict(), [r["changed"] for r in done["refreshes"]]))
    assert ends[0][1] == ends[1][1] and all(torch.equal(v, ends[1][0][k]) for k, v in ends[0][0].items())


def test_rows_without_negatives_are_those_of_the_start(mined):
    """A query that a refresh leaves without negatives trains on its batch alone, as one that never had any."""
    rows = training.MinedRows(mined[0], negatives=3)
    some = rows.batch([0, 3])[1]
    left = mined[0].negatives["query"] != 0
    fewer = type(mined[0])(
        **(vars(mined[0]) | {"negatives": {name: values[left] for name, values in mined[0].negatives.items()}})
    )
    rows.take(fewer)
    from_start = training.MinedRows(fewer, negatives=3)
    for index in ([0], [0, 3], [5, 0, 9]):
        ours, theirs = rows.batch(index), from_start.batch(index)
        assert ours[:2] == theirs[:2] and torch.equal(ours[2].log_weights, theirs[2].log_weights)
    assert len(rows.batch([0])[1]) == 1 and len(rows.batch([0, 3])[1]) < len(some)
    assert len(rows) == len(from_start) == 48 + 30


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"refresh_every": 0}, "refresh_every must be a whole number of epochs, at least 1: got 0"),
        ({"refresh_every": 3}, "refresh_every 3 never comes: the training has 15 steps and an epoch 5"),
        ({"refresh_every": 1, "steps": 5}, "refresh_every 1 never comes"),
        ({"refresh_every": 1, "negatives": 0}, "needs mined negatives in the batches: negatives is 0"),
        ({"refresh_every": 1, "guide": verses.LetterEncoder()}, "guide must be left out"),
    ],
)
def test_refreshes_that_cannot_be(mined, model, tmp_path, options, says):
    """What would never come or cannot be made is said before anything is trained."""
    with pytest.raises(ValueError, match=says):
        fit(model, mined, tmp_path, **options)
    assert not any(tmp_path.iterdir())


def test_negatives_that_cannot_be_mined_again(data):
    """Sets without settings, with unknown ones, or that no model found, are refused in a line."""
    mined = mine_negatives(data, encoder=verses.LetterEncoder(), percentage=0.98, candidates_from="bm25", negatives=2)
    with pytest.raises(ValueError, match="these were mined with candidates from bm25 alone"):
        refreshing.refresh(mined, verses.LetterEncoder())
    mined.summary["settings"] |= {"candidates_from": "dense", "runs": ["bm25.trec"]}
    with pytest.raises(ValueError, match="it had run files, which its summary only names"):
        refreshing.refresh(mined, verses.LetterEncoder())
    mined.summary["settings"]["runs"] = None
    mined.summary.update({"sources": ["minilm", "e5"], "second_opinions": {"judge": {"asked": 3}}})
    with pytest.raises(ValueError, match="it had several encoders and a judge"):
        refreshing.refresh(mined, verses.LetterEncoder())
    mined.summary.update({"sources": ["dense"], "second_opinions": {}})
    mined.summary["settings"]["colour"] = "red"
    with pytest.raises(ValueError, match="does not know the settings colour"):
        refreshing.refresh(mined, verses.LetterEncoder())
    del mined.summary["settings"]
    with pytest.raises(ValueError, match="its summary has no settings of a mining run"):
        refreshing.refresh(mined, verses.LetterEncoder())


# --- On the command line -----------------------------------------------------------------------------------------


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["no_duplicates", "ngame"])
def test_train_refreshes_from_the_command_line(capsys, mined, tiny, tmp_path, batches):
    """A line per refresh on stderr, all of it in training.json; what a stopped run left is no hindrance and goes."""
    out = tmp_path / "model"
    with runs.locked(out / training.VECTORS):
        pass  # what a training that was killed leaves
    code, text, err = run(
        capsys, "train", mined[1], "-o", out, "--model", tiny, "--batch-size", 16, "--epochs", 2, "--negatives", 3,
        "--learning-rate", 5e-3, "--refresh-every", 1, "--batches", batches,
    )  # fmt: skip
    lines = [row for row in err.splitlines() if row.startswith("Refresh")]
    assert code == 0 and len(lines) == 1 and "204 texts encoded again" in lines[0], err
    report = json.loads((out / "training.json").read_text())
    assert report["steps"] == 2 * report["refreshes"][0]["step"] and report["refreshes"][0]["epoch"] == 1
    assert "Trained" in text and not (out / training.VECTORS).exists() and (out / "modules.json").exists()


def test_mistakes_on_the_command_line(capsys, mined, tiny, tmp_path):
    """Bad values get one line and exit code 2."""
    for arguments, says in (
        (("--refresh-every", 0), "refresh_every must be a whole number of epochs, at least 1: got 0"),
        (("--refresh-every", "often"), "--refresh-every"),
        (("--refresh-every", 1), "refresh_every 1 never comes"),
        (("--refresh-every", 1, "--steps", 1), "raise epochs or steps"),
        (("--refresh-every", 1, "--epochs", 2, "--negatives", 0), "negatives is 0"),
        (("--guide", tiny), "give --refresh-every, or leave it out"),
    ):
        code, _, err = run(capsys, "train", mined[1], "-o", tmp_path / "out", "--model", tiny, *arguments)
        assert code == 2 and says in err and err.count("\n") == 1, (arguments, err)
    code, _, err = run(capsys, "train", tmp_path, "-o", tmp_path / "out", "--refresh-every", 1)
    assert code == 2 and "holds no finished mining run" in err
