"""Second opinions inside mining: on real verses, through sentence-transformers, and on the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tamis.negatives.cross_encoder import PairScorer
from tamis.negatives.mine import mine_negatives
from tests import verses


def overlap(pairs):
    """Share of the words of the passage that the query has."""
    words = [(set(q.lower().split()), set(p.lower().split())) for q, p in pairs]
    return [len(q & p) / len(p) for q, p in words]


@pytest.mark.parametrize("both", [0, 300])
def test_verses(both):
    """On real verses no scored pick reaches its positive, the audit measures the scorer, and fewer picks are false."""
    data = verses.data(both=both)
    call = {"encoder": verses.LetterEncoder(), "negatives": 4, "max_survival": 1.0, "depth": 40}
    plain = mine_negatives(data, **call)
    seen = mine_negatives(data, cross_encoder=overlap, **call)
    texts = data.queries.texts, data.corpus.texts
    reference = {q: s for q, s in zip(seen.dropped["query"].tolist(), seen.dropped["rival_score"].tolist(), strict=True)
                 if not np.isnan(s)}  # fmt: skip
    query, negative = seen.negatives["query"].tolist(), seen.negatives["negative"].tolist()
    scores = overlap([(texts[0][q], texts[1][n]) for q, n in zip(query, negative, strict=True)])
    gone = seen.dropped["rule"] == "cross-encoder"
    assert gone.sum() == seen.summary["second_opinions"]["cross_encoder"]["dropped"] > 20
    bounds = {q: s for q, s, g in zip(seen.dropped["query"].tolist(), seen.dropped["rival_score"].tolist(),
                                      gone.tolist(), strict=True) if g}  # fmt: skip
    assert reference and all(s < bounds[q] for q, s in zip(query, scores, strict=True) if q in bounds)

    def false(found):
        keys = [data.corpus.ids[n].split()[1] == data.queries.ids[q] for q, n in
                zip(found.negatives["query"], found.negatives["negative"], strict=True)]  # fmt: skip
        return sum(keys) / len(keys)

    if both == 0:
        assert false(seen) < 0.8 * false(plain)
        assert not seen.summary["audit"]["second_opinion"]["measured"]
    else:
        audit = seen.summary["audit"]
        assert audit["second_opinion"]["survival"]["count"] < audit["verification"]["count"]
        assert audit["second_opinion"]["says"] in audit["says"]
    step = {row["step"]: row["count"] for row in seen.summary["funnel"]}
    assert step["dropped: cross-encoder"] == gone.sum()


def test_confirmed_answers_become_positives():
    """With judge_confirmed="positive" an answer leaves the negatives and joins the positives, and nothing else does."""
    data = verses.data()
    key = {text: name.split()[1] for name, text in zip(data.corpus.ids, data.corpus.texts, strict=True)}

    def judge(query, passage, positive):
        return key[passage] == key[positive]

    call = {"encoder": verses.LetterEncoder(), "negatives": 4, "max_survival": 1.0, "depth": 40, "judge": judge}
    seen = mine_negatives(data, judge_confirmed="positive", judge_budget=200, **call)
    added = [len(a) - len(b) for a, b in zip(seen.positives, data.positives, strict=True)]
    counts = seen.summary["second_opinions"]
    assert counts["judge"]["verdicts"] == 200
    assert sum(added) == counts["judge"]["positive"] == counts["new_positives"] > 20
    for query, rows in enumerate(seen.positives):
        assert {data.corpus.ids[r].split()[1] for r in rows.tolist()} == {data.queries.ids[query]}
        assert not np.isin(rows, seen.negatives["negative"][seen.negatives["query"] == query]).any()
    dropped = mine_negatives(data, judge_budget=200, **call)
    assert [p.tolist() for p in dropped.positives] == [p.tolist() for p in data.positives]
    assert dropped.negatives["negative"].tolist() == seen.negatives["negative"].tolist()


@pytest.fixture
def reranker(tmp_path):
    """The folder of a cross-encoder with random weights, and of an encoder without a last layer."""
    pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    words = "[PAD] [UNK] [CLS] [SEP] [MASK]".split() + list("abcdefghijklmnopqrstuvwxyz")
    torch.manual_seed(0)
    shape = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 32}  # fmt: skip
    models = {
        "one": BertForSequenceClassification(BertConfig(num_labels=1, **shape)),
        "three": BertForSequenceClassification(BertConfig(num_labels=3, **shape)),
        "bare": BertModel(BertConfig(**shape)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_cross_encoder_of_sentence_transformers(reranker):
    """A cross-encoder gives the same logits alone and in a batch, whatever its last step, and tells its weights."""
    from sentence_transformers import CrossEncoder

    from tamis.integrations.sentence_transformers import CrossEncoderScorer

    scorer = CrossEncoderScorer.load(str(reranker / "one"))
    pairs = [("a b", "c d"), ("a", "g h i j k l m n"), ("z", "y")]
    logits = PairScorer(scorer).scores(pairs)
    assert logits == pytest.approx(scorer.predict(pairs)) and scorer.name == "one"
    model = CrossEncoder(str(reranker / "one"))
    assert PairScorer(scorer, sigmoid=True).scores(pairs) == pytest.approx(model.predict(pairs), abs=1e-6)
    assert PairScorer(model).scores(pairs) == pytest.approx(model.predict(pairs), abs=1e-6)
    before = scorer.fingerprint()
    assert CrossEncoderScorer(model).fingerprint() == before
    assert CrossEncoderScorer.load(str(reranker / "one"), max_length=4).fingerprint() != before
    with torch.no_grad():
        next(iter(model.parameters())).add_(1)
    assert CrossEncoderScorer(model).fingerprint() != before


@pytest.mark.slow
def test_cross_encoders_that_cannot_work(reranker):
    """An encoder without a trained relevance, one with several outputs, and a folder without a model are refused."""
    from tamis.integrations.sentence_transformers import CrossEncoderScorer

    with pytest.raises(ValueError, match="has no trained relevance: its files hold BertModel; name a reranker"):
        CrossEncoderScorer.load(str(reranker / "bare"))
    with pytest.raises(ValueError, match="must have one output, a relevance: it has 3"):
        CrossEncoderScorer.load(str(reranker / "three"))
    with pytest.raises(ValueError, match=r"is no folder with a model: it has no config.json"):
        CrossEncoderScorer.load(str(reranker / "none"))


@pytest.mark.slow
def test_command_line(reranker, monkeypatch, capsys):
    """The command takes a cross-encoder and a judge by name, keeps what they say, and runs again when they change."""
    from tamis.cli.mining import mine
    from tamis.data import write_beir

    work = reranker
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    data = verses.data()
    write_beir(data, work / "data")
    np.save(work / "q.npy", verses.LetterEncoder().encode(list(data.queries.texts)))
    np.save(work / "c.npy", verses.LetterEncoder().encode(list(data.corpus.texts)))
    (work / "my_judge.py").write_text("def judge(query, passage, positive):\n    return len(passage) % 2 == 0\n")
    call = {"output": work / "mined", "query_embeddings": work / "q.npy", "corpus_embeddings": work / "c.npy",
            "negatives": 1, "depth": 20, "max_survival": 1.0, "cross_encoder_budget": 300}  # fmt: skip
    mine(work / "data", cross_encoder=str(work / "one"), judge="my_judge:judge", judge_budget=20, **call)
    said = capsys.readouterr().out
    assert "Opinion  one read 300 pairs" in said and "Judge    Of 20 candidates that were judged" in said
    kept = sorted(p.name.split("-")[0] for p in (work / "mined" / "second_opinions").iterdir())
    assert kept == ["scores", "verdicts"]
    (verdicts,) = (work / "mined" / "second_opinions").glob("verdicts-*")
    mine(work / "data", judge=str(verdicts), **call)
    said = capsys.readouterr().out
    assert "up to date" not in said and "The file has verdicts on 20 candidates" in said
    mine(work / "data", judge=str(verdicts), **call)
    assert "up to date" in capsys.readouterr().out
    bad = {
        "nowhere": "there is no file 'nowhere'",
        "my_judge:no": "cannot be imported",
        "no_such:f": "cannot be imported",
        "my_judge:__name__": "must be a function",
    }
    for name, message in bad.items():
        with pytest.raises(ValueError, match=message):
            mine(work / "data", judge=name, **call)


def test_consistency_equals_a_full_ranking():
    """Ranks of the pool say what a full ranking of the corpus says, other positives aside."""
    data = verses.data(both=60)
    encoder = verses.LetterEncoder()
    units = [encoder.encode(list(t.texts)) for t in (data.queries, data.corpus)]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in units]
    scores = units[0] @ units[1].T
    found = mine_negatives(data, query_embeddings=units[0], corpus_embeddings=units[1], max_survival=1.0, depth=5,
                           negatives=1, consistent_within=3)  # fmt: skip
    within = []
    for query, own in enumerate(data.positives):
        others = np.delete(scores[query], own)
        within.append(min(1 + int((others > scores[query, p] + 1e-6).sum()) for p in own) <= 3)
    kept = np.isin(np.arange(len(within)), found.negatives["query"])
    assert (kept == np.array(within)).mean() > 0.995 and 0.1 < kept.mean() < 1
