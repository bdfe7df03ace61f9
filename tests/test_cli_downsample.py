"""``tamis downsample`` as a user meets it: a BEIR folder that is read again, evidence, numbers that are true."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis import cli
from tamis.data import RetrievalData, read, write_beir
from tamis.evaluation import rank_agreement
from tamis.lexical import lexical_top_k
from tamis.results import Table
from tamis.trec import read_run, write_run

WORDS = ["sieve", "drum", "flour", "fox", "rose", "snow", "river", "stone", "brush", "lamp", "cloud", "boat"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def made(queries: int = 12, documents: int = 80) -> RetrievalData:
    """Documents of four words each, and queries that share words with two relevant ones, one of them graded higher."""
    rng = np.random.default_rng(0)
    sets = list(itertools.combinations(WORDS, 4))
    texts = [" ".join(rng.permutation(sets[i])) for i in rng.choice(len(sets), documents, replace=False)]
    positives = [np.sort(rng.choice(documents, 2, replace=False)) for _ in range(queries)]
    asked = [" ".join([*texts[a].split()[:2], *texts[b].split()[:1]]) for a, b in positives]
    return RetrievalData(
        Table([f"q{i}" for i in range(queries)], asked),
        Table([f"d{i}" for i in range(documents)], texts),
        positives,
        [np.array([2.0, 1.0])] * queries,
    )


def ranked(path, data, noise, seed, depth=80):
    """A run file of a system that sees the judgements through noise."""
    rng = np.random.default_rng(seed)
    scores = noise * rng.standard_normal((len(data.queries), len(data.corpus)))
    for row, rows, grades in zip(scores, data.positives, data.grades, strict=True):
        row[rows] += grades
    order = np.argsort(-scores, axis=1)[:, :depth]
    write_run(path, data.queries.ids, data.corpus.ids, order, np.take_along_axis(scores, order, 1))
    return path


@pytest.fixture
def task(tmp_path):
    """A folder, its data, and two runs."""
    data = made()
    write_beir(data, tmp_path / "data", split="test")
    runs = [ranked(tmp_path / f"{name}.run", data, noise, i) for i, (name, noise) in enumerate([("a", 0.5), ("b", 1)])]
    return tmp_path / "data", data, runs


def reported(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_smaller_task_comes_out(capsys, tmp_path, task):
    """A BEIR folder with lines as they came: relevant documents and all that a retriever ranks high, no others."""
    folder, data, runs = task
    out = tmp_path / "small"
    flags = ["--run", runs[0], "--run", runs[1], "--depth", 3]
    code, text, err = run(capsys, "downsample", folder, "-o", out, *flags)
    assert (code, err) == (0, "")
    wanted = {int(d) for rows in data.positives for d in rows}
    wanted |= set(lexical_top_k(data.queries.texts, data.corpus.texts, 3)[1].ravel().tolist()) - {-1}
    for path in runs:
        found = read_run(path, data.queries.ids, data.corpus.ids)
        wanted |= set(found.passage.reshape(12, 80)[:, :3].ravel().tolist())
    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    assert (out / "corpus.jsonl").read_text() == "".join(lines[d] for d in sorted(wanted))
    assert (out / "queries.jsonl").read_text() == (folder / "queries.jsonl").read_text()
    assert (out / "qrels" / "test.tsv").read_text() == (folder / "qrels" / "test.tsv").read_text()
    dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    assert [row["row"] - 1 for row in dropped] == sorted(set(range(80)) - wanted) and 0 < len(dropped) < 60
    assert all(row["rule"] == "not ranked" and row["query_id"] is None for row in dropped)
    assert dropped[0]["text"] == data.corpus.texts[dropped[0]["row"] - 1]
    report = reported(out)
    assert report["documents"] == {
        "full": 80, "small": len(wanted), "judged": len({int(d) for r in data.positives for d in r}),
        "pooled": len(wanted) - len({int(d) for r in data.positives for d in r}),
    }  # fmt: skip
    assert report["judgements"] == {"full": 24, "small": 24} and report["settings"]["depth"] == 3
    assert f"80 -> {len(wanted)}" in text and "Spearman" in text and "may score too high" in text


def test_the_numbers_are_those_of_the_small_folder(capsys, tmp_path, task):
    """nDCG@10 of the report is what a second look at the folders gives, for runs and for BM25."""
    from tamis import ranking

    folder, data, runs = task
    out = tmp_path / "small"
    run(capsys, "downsample", folder, "-o", out, "--run", runs[0], "--run", runs[1], "--depth", 2, "--seed", 5)
    systems = {system["name"]: system for system in reported(out)["systems"]}
    assert list(systems) == ["bm25", "a", "b"]
    small = read(out)
    for key, held in (("full", data), ("small", small)):
        keys = np.argsort(np.argsort(np.array(held.corpus.ids)))
        scores, found = lexical_top_k(held.queries.texts, held.corpus.texts, 80)
        ties = np.where(found >= 0, keys[found], -1)
        ndcg = ranking.evaluate(found, scores, held.qrels(), ks=(10,), tie_keys=ties)["nDCG@10"]
        assert systems["bm25"][key] == pytest.approx(ndcg.mean(), abs=1e-12)
        rows = {name: i for i, name in enumerate(held.corpus.ids)}
        whole = read_run(runs[1], data.queries.ids, data.corpus.ids)
        order = [
            [rows[data.corpus.ids[d]] for d in line if data.corpus.ids[d] in rows]
            for line in whole.passage.reshape(12, 80)
        ]
        gains = ranking.gains_from(np.array(order), held.qrels())
        ndcg = ranking.ndcg(gains, ranking.ideal_from(held.qrels(), 10), 10)
        assert systems["b"][key] == pytest.approx(ndcg.mean(), abs=1e-12)
    assert all(system["small"] >= system["full"] - 1e-12 for system in systems.values() if system["kind"] == "run")
    assert all(system["bias_outside_the_pool"] >= 0 for system in systems.values() if system["kind"] == "run")
    report = reported(out)
    assert report["agreement"] == report["agreement_same_queries"] != report["agreement_random_corpus"]
    one, other = ([system[key] for system in systems.values()] for key in ("full", "small"))
    assert report["agreement"]["spearman"] == pytest.approx(rank_agreement(one, other, samples=1).spearman)
    assert report["agreement"]["max_abs_diff"] == pytest.approx(report["largest_change"])


def test_queries_are_drawn_and_take_their_documents_along(capsys, tmp_path, task):
    """At most so many queries, with their judgements; what only dropped ones were judged for is named so."""
    folder, data, runs = task
    out, again, other = (tmp_path / name for name in ("out", "again", "other"))
    flags = ["--run", runs[0], "--no-bm25", "--depth", 1, "--max-queries", 4]
    code, text, _ = run(capsys, "downsample", folder, "-o", out, *flags)
    assert code == 0 and "One retriever has no order to keep" in text and "12 -> 4" in text
    small = read(out)
    assert len(small.queries) == 4
    for query, rows in zip(small.queries.ids, small.positives, strict=True):
        whole = data.positives[data.queries.ids.index(query)]
        assert {small.corpus.ids[r] for r in rows} == {data.corpus.ids[r] for r in whole}
    dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    judged = [row for row in dropped if row["rule"] == "query dropped"]
    assert judged and all(row["query_id"] not in small.queries.ids for row in judged)
    report = reported(out)
    assert report["agreement"] is None and report["judgements"] == {"full": 24, "small": 8}
    run(capsys, "downsample", folder, "-o", again, *flags)
    run(capsys, "downsample", folder, "-o", other, *flags, "--seed", 1)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "dropped.parquet"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    assert (out / "queries.jsonl").read_bytes() != (other / "queries.jsonl").read_bytes()
    code, text, _ = run(capsys, "downsample", folder, "-o", out, *flags, "--run", runs[1])
    assert code == 0 and "Full corpus and small one: Spearman" in text
    assert reported(out)["agreement"] != reported(out)["agreement_same_queries"]


def test_a_deep_pool_keeps_everything(capsys, tmp_path, task):
    """A pool as deep as the corpus is the corpus, with the same scores, and a line says so."""
    folder, _, runs = task
    code, text, _ = run(capsys, "downsample", folder, "-o", tmp_path / "out", "--run", runs[0], "--depth", 80)
    assert code == 0 and "Every document is kept: a lower --depth" in text
    assert (tmp_path / "out" / "corpus.jsonl").read_bytes() == (folder / "corpus.jsonl").read_bytes()
    assert all(system["small"] == system["full"] for system in reported(tmp_path / "out")["systems"])


def test_an_encoder_is_one_of_the_retrievers(capsys, tmp_path, task):
    """A model2vec folder is encoded, pooled and measured; the same vectors as a run give the same scores."""
    model2vec = pytest.importorskip("model2vec")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).standard_normal((len(vocabulary), 16)).astype(np.float32)
    model = model2vec.StaticModel(vectors, tokenizer, config={"model_type": "model2vec"})
    model.save_pretrained(str(tmp_path / "static"))
    folder, data, _ = task
    one, other = (model.encode(texts) for texts in (data.queries.texts, data.corpus.texts))
    cosine = (one / np.linalg.norm(one, axis=1, keepdims=True)) @ (other / np.linalg.norm(other, axis=1)[:, None]).T
    order = np.argsort(-cosine, axis=1, kind="stable")
    run_of_it = tmp_path / "as run.run"
    write_run(run_of_it, data.queries.ids, data.corpus.ids, order, np.take_along_axis(cosine, order, 1))
    code, _, err = run(capsys, "downsample", folder, "-o", tmp_path / "out", "--encoder", tmp_path / "static",
                       "--run", run_of_it, "--depth", 2)  # fmt: skip
    assert (code, err) == (0, "")
    systems = reported(tmp_path / "out")["systems"]
    assert [system["kind"] for system in systems] == ["bm25", "run", "encoder"]
    for key in ("full", "small"):
        assert systems[1][key] == pytest.approx(systems[2][key], abs=1e-6)


def test_other_judgements_and_lines_stay_as_they_are(capsys, tmp_path, task):
    """Grades of 0 stay where both sides do, TREC columns stay four, blank lines go, titles and further fields stay."""
    folder, _, _ = task
    corpus = (folder / "corpus.jsonl").read_text().splitlines()
    first = json.loads(corpus[0]) | {"title": "A title", "url": "x"}
    (folder / "corpus.jsonl").write_text("\n".join(["", json.dumps(first), *corpus[1:]]))
    (folder / "qrels" / "test.tsv").write_text("q0\t0\td0\t1\nq0\t0\td5\t0\nq0\t0\td79\t0\n")
    path = tmp_path / "c.run"
    path.write_text("q0 Q0 d5 1 2.0 x\nq0 Q0 d0 2 1.0 x\n")
    code, _, _ = run(capsys, "downsample", folder, "-o", tmp_path / "out", "--run", path, "--no-bm25", "--depth", 1)
    assert code == 0
    assert (tmp_path / "out" / "qrels" / "test.tsv").read_text() == "q0\t0\td0\t1\nq0\t0\td5\t0\n"
    kept = [json.loads(line) for line in (tmp_path / "out" / "corpus.jsonl").read_text().splitlines()]
    assert [row["_id"] for row in kept] == ["d0", "d5"] and kept[0] == first
    assert reported(tmp_path / "out")["judgements"] == {"full": 3, "small": 2}


def test_a_short_run_is_pointed_out(capsys, tmp_path, task):
    """A run that holds fewer than ten of the kept documents cannot be judged, and a line says so; a deep one can."""
    folder, data, runs = task
    short = ranked(tmp_path / "short.run", data, 0.7, 3, depth=10)
    code, text, _ = run(
        capsys, "downsample", folder, "-o", tmp_path / "out", "--run", runs[0], "--run", short, "--depth", 2
    )
    assert code == 0 and "The run short is short: of 12 queries fewer than 10" in text and "The run a is" not in text
    systems = {system["name"]: system["queries_cut_short"] for system in reported(tmp_path / "out")["systems"]}
    assert systems == {"bm25": 0, "a": 0, "short": 12}


def test_without_encoder_and_run_there_is_minilm(capsys, tmp_path, task, monkeypatch):
    """The model of [minilm] is the default, and where it is not installed a line names the choices."""
    from tamis import encoders

    def absent():
        raise ValueError("no encoder is given and the default one is not installed: name a model.")

    monkeypatch.setattr(encoders, "default_model", absent)
    code, _, err = run(capsys, "downsample", task[0], "-o", tmp_path / "out")
    assert code == 2 and "no encoder is given" in err

    class Letters:
        def encode(self, texts):
            return np.array([[1.0 + text.count(c) for c in "abcdefghij"] for text in texts], dtype=np.float32)

    monkeypatch.setattr(encoders, "resolve", lambda name: Letters())
    assert run(capsys, "downsample", task[0], "-o", tmp_path / "out", "--no-bm25", "--depth", 2)[0] == 0
    assert [system["name"] for system in reported(tmp_path / "out")["systems"]] == ["minilm"]


def mistakes(tmp_path, task):
    """(arguments, what the line must say) for mistakes of every kind."""
    folder, data, runs = task
    write_beir(data, tmp_path / "two", split="dev")
    write_beir(data, tmp_path / "two", split="more")
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    foreign = tmp_path / "foreign.run"
    foreign.write_text("q0 Q0 elsewhere 1 2.0 x\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    out, given = tmp_path / "bad", ("--run", runs[0])
    return [
        ((tmp_path / "nowhere", *given, "-o", out), "nowhere is no folder in BEIR layout"),
        ((runs[0], *given, "-o", out), "a.run is no folder in BEIR layout"),
        ((folder, *given, "-o", folder), "is the data itself: name another output folder"),
        ((folder, *given, "-o", full), "is not empty and was not made by tamis"),
        ((folder, *given, "-o", out, "--depth", 0), "depth must be at least 1: got 0"),
        ((folder, *given, "-o", out, "--max-queries", 0), "max_queries must be at least 1: got 0"),
        ((folder, *given, "-o", out, "--samples", 0), "samples must be at least 1: got 0"),
        ((folder, *given, "-o", out, "--split", "dev"), "no split 'dev': there are test"),
        ((tmp_path / "two", *given, "-o", out), "several splits (dev, more)"),
        ((folder, *given, *given, "-o", out), "distinct names: 'a' stands twice"),
        ((folder, "--run", tmp_path / "gone.run", "-o", out), "gone.run does not exist"),
        ((folder, "--run", foreign, "-o", out), "foreign.run, line 1: the passage 'elsewhere' is not in the corpus"),
        ((folder, "--encoder", empty, "-o", out), "is a folder without a model"),
        ((folder, *given), "--output"),
        ((folder, *given, "-o", out, "--depth", "deep"), "deep"),
    ]


def test_mistakes_get_one_line_and_exit_code_2(capsys, tmp_path, task):
    """Every mistake ends with exit code 2 and one line on stderr; nothing half-written is left."""
    for arguments, says in mistakes(tmp_path, task):
        code, _, err = run(capsys, "downsample", *arguments)
        assert code == 2, arguments
        assert says in err and err.startswith("tamis: ") and err.count("\n") == 1, (arguments, err)
    assert not [path for path in (tmp_path / "bad").glob("*") if path.name != ".tamis-lock"]


def test_one_folder_holds_one_split(capsys, tmp_path, task):
    """Judgements of another split, left by an earlier run, would name documents that are gone."""
    folder, data, runs = task
    write_beir(data, folder, split="dev")
    assert run(capsys, "downsample", folder, "-o", tmp_path / "out", "--run", runs[0])[0] == 0
    code, _, err = run(capsys, "downsample", folder, "-o", tmp_path / "out", "--run", runs[0], "--split", "dev")
    assert code == 2 and "test.tsv is of an earlier run on another split" in err


def test_help_shows_an_example(capsys):
    """The page says what is written and how to call it."""
    code, text, _ = run(capsys, "downsample", "--help")
    flat = " ".join(text.split())
    assert code == 0 and "tamis downsample beir/nq --encoder" in flat and "dropped.parquet" in flat
