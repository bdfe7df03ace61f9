"""Encoders: names become models, vectors are kept by shards and never served stale."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tamis import encoders
from tests import tiny
from tests.verses import LetterEncoder

TEXTS = [f"text number {i}" for i in range(50)]


class Dies(LetterEncoder):
    """Stops in the middle of its work."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def fingerprint(self):
        return "letters"

    def encode(self, texts):
        if self.calls >= self.after:
            raise KeyboardInterrupt
        return super().encode(texts)


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """After a stop between shards only the missing shards are encoded, and the file is the one of a run in one go."""
    monkeypatch.setattr(encoders, "SHARD", 8)
    whole = Dies(after=10_000)
    encoders.encode(whole, TEXTS, folder=tmp_path / "a", stem="corpus")
    with pytest.raises(KeyboardInterrupt):
        encoders.encode(Dies(after=24), TEXTS, folder=tmp_path / "b", stem="corpus")
    rest = Dies(after=10_000)
    encoders.encode(rest, TEXTS, folder=tmp_path / "b", stem="corpus")
    assert (whole.calls, rest.calls) == (50, 26)
    assert (tmp_path / "a" / "corpus.npy").read_bytes() == (tmp_path / "b" / "corpus.npy").read_bytes()


@pytest.mark.parametrize("change", ["text", "prompt", "weights", "note", "file"])
def test_changes_are_noticed(tmp_path, change):
    """A changed text, prompt or weight, or a damaged note or file, means encoding again."""
    encoders.encode(LetterEncoder(), TEXTS, folder=tmp_path, stem="corpus")
    texts, prompt, encoder = list(TEXTS), "", LetterEncoder(salt=3 if change == "weights" else 0)
    if change == "text":
        texts[7] = "another text"
    if change == "prompt":
        prompt = "passage: "
    if change == "note":
        (tmp_path / "corpus.json").write_text("{")
    if change == "file":
        (tmp_path / "corpus.npy").write_bytes(b"cut")
    vectors = encoders.encode(encoder, texts, prompt=prompt, folder=tmp_path, stem="corpus")
    assert encoder.calls >= 50
    assert np.array_equal(vectors, LetterEncoder(salt=encoder.salt).encode([prompt + t for t in texts]))


def test_unchanged_vectors_are_reused(tmp_path):
    """The same texts and encoder cost one probe."""
    encoders.encode(LetterEncoder(), TEXTS, folder=tmp_path, stem="corpus")
    again = LetterEncoder()
    encoders.encode(again, TEXTS, folder=tmp_path, stem="corpus")
    assert again.calls <= 16
    assert json.loads((tmp_path / "corpus.json").read_text())["done"] == 50


def test_stored_vectors_are_read_and_nothing_else(tmp_path):
    """Whole vectors under the right key come back read-only; for anything else there is nothing, and no file moves."""
    encoders.encode(LetterEncoder(), TEXTS, folder=tmp_path, stem="corpus")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    found = encoders.stored(LetterEncoder(), TEXTS, folder=tmp_path, stem="corpus")
    assert np.array_equal(found, LetterEncoder().encode(TEXTS)) and not found.flags.writeable
    assert encoders.stored(LetterEncoder(salt=1), TEXTS, folder=tmp_path, stem="corpus") is None
    assert encoders.stored(LetterEncoder(), TEXTS[1:], folder=tmp_path, stem="corpus") is None
    assert encoders.stored(LetterEncoder(), TEXTS, prompt="p", folder=tmp_path, stem="corpus") is None
    assert encoders.stored(LetterEncoder(), TEXTS, folder=tmp_path / "none", stem="corpus") is None
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir()}
    note = tmp_path / "corpus.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"done": 49}))
    assert encoders.stored(LetterEncoder(), TEXTS, folder=tmp_path, stem="corpus") is None


class Lookup:
    """One vector per text number, held as an array, a tensor or a module, and no fingerprint of its own."""

    def __init__(self, kind):
        table = np.arange(1, 101, dtype=np.float32).reshape(50, 2)
        self.table = {"array": lambda: table, "tensor": lambda: torch.from_numpy(table), "module": self.module}[kind]()

    @staticmethod
    def module():
        return torch.nn.Embedding(50, 2, _weight=torch.arange(1.0, 101.0).reshape(50, 2))

    @property
    def weights(self):
        return self.table.weight.data if isinstance(self.table, torch.nn.Module) else self.table

    def encode(self, texts):
        return np.array([np.asarray(self.weights[int(t.split()[-1])]) for t in texts])


@pytest.mark.parametrize("kind", ["array", "tensor", "module"])
def test_weights_that_the_probe_does_not_see(tmp_path, kind):
    """A change in place that shows in one text only, and not among the probe's, means encoding again."""
    encoder = Lookup(kind)
    old = np.array(encoders.encode(encoder, TEXTS, folder=tmp_path, stem="corpus"))
    encoder.weights[49] += 1.0  # the probe takes every third text, from the first
    new = encoders.encode(encoder, TEXTS, folder=tmp_path, stem="corpus")
    assert np.array_equal(new, encoder.encode(TEXTS)) and np.flatnonzero((new != old).any(1)).tolist() == [49]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a tiny sentence-transformers model."""
    pytest.importorskip("sentence_transformers")
    return tiny.save(tmp_path_factory.mktemp("tiny"))


def bump_a_weight(model):
    with torch.no_grad():
        model[0].model.encoder.layer[1].output.dense.weight[3, 4].add_(0.5)


def bump_a_buffer(model):
    places = model[0].model.embeddings.position_ids
    places.copy_(places.flip(1))  # in no state_dict, and read in every forward pass


def shorten(model):
    model.max_seq_length = 4


def truncate_dimensions(model):
    model.truncate_dim = 16


def pool_the_first(model):
    from sentence_transformers.sentence_transformer import modules

    model[1] = modules.Pooling(32, pooling_mode="cls")


def append_a_module(model):
    from sentence_transformers.sentence_transformer import modules

    model.add_module("2", modules.Normalize())


def soften_the_norms(model):
    model[0].model.embeddings.LayerNorm.eps = 0.5


def swap_two_words(model):
    tokenizer = model.tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["and"], words["the"] = words["the"], words["and"]
    tokenizer._tokenizer = type(tokenizer._tokenizer).from_str(json.dumps(state))


def halve_the_precision(model):
    model.bfloat16()


CHANGES = (
    bump_a_weight, bump_a_buffer, shorten, truncate_dimensions, pool_the_first, append_a_module, soften_the_norms,
    swap_two_words, halve_the_precision,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_model_that_changes_in_memory_is_encoded_again(saved, tmp_path, change):
    """Whatever changes in a live model, the next vectors are those of a fresh encode and not the ones on disk."""
    texts = ["and the word of the lord came and went", "the sea and the land", "and he said to them", "the boat"]
    encoder = encoders.load(str(saved))
    old = np.array(encoders.encode(encoder, texts, folder=tmp_path, stem="corpus"))
    change(encoder.model)
    new = encoders.encode(encoder, texts, folder=tmp_path, stem="corpus")
    assert np.array_equal(new, encoder.encode(texts))
    assert new.shape != old.shape or np.abs(new - old).max() > 1e-5  # the change was worth noticing


def test_what_is_no_change(saved, tmp_path):
    """Use, training mode, another folder or another name change no vector, so they change no fingerprint."""
    encoder = encoders.load(str(saved))
    first = encoder.fingerprint()
    encoder.encode(["a text", "and a longer text of the same"])
    encoder.model.train()
    encoder.model.tokenizer(["a"], truncation=True, max_length=3)
    assert encoder.fingerprint() == first
    encoder.model.save_pretrained(str(tmp_path / "elsewhere"), create_model_card=False)
    assert encoders.load(str(tmp_path / "elsewhere")).fingerprint() == first


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (3, TypeError, r"encoder must have a method encode\(texts\): got int"),
        ("vectors.npy", ValueError, "holds embeddings, not a model"),
        ("./nowhere", ValueError, "encoder ./nowhere does not exist"),
    ],
)
def test_what_is_no_encoder(given, error, says):
    """What cannot encode is refused in one line."""
    with pytest.raises(error, match=says):
        encoders.resolve(given)


def test_a_folder_without_a_model(tmp_path):
    """A folder that holds no model says what is missing."""
    with pytest.raises(ValueError, match="is a folder without a model"):
        encoders.resolve(str(tmp_path))


def test_outputs_are_checked():
    """One finite row per text, as a float matrix; tensors are welcome."""

    class Odd:
        def __init__(self, out):
            self.out = out

        def encode(self, texts):
            return self.out

    assert encoders.encode(Odd(torch.ones(1, 2)), ["a"]).dtype == np.float32
    for out, says in (
        (np.ones((2, 2)), "one row per text: 1 texts, 2 rows"),
        (np.array([[np.nan]]), "output must be finite"),
        (np.ones(3), "must be two-dimensional"),
        ("abc", "must be a float matrix"),
    ):
        with pytest.raises(ValueError, match=says):
            encoders.encode(Odd(out), ["a"])
    with pytest.raises(ValueError, match="must not hold zero vectors: row 1 is zero"):
        encoders.unit_rows(np.array([[1.0], [0.0]]), "x")


def test_a_model_of_static_vectors(tmp_path):
    """A sentence-transformers model without a longest text should encode, whole texts, and have a fingerprint."""
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    library = pytest.importorskip("sentence_transformers")
    tokenizers = pytest.importorskip("tokenizers")
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    table = np.eye(3, dtype=np.float32)
    library.SentenceTransformer(modules=[modules.StaticEmbedding(tokens, embedding_weights=table)], device="cpu").save(
        str(tmp_path / "static")
    )
    encoder = encoders.resolve(str(tmp_path / "static"))
    vectors = np.asarray(encoder.encode(["a b", "a " * 2000 + "b " * 2000]))
    np.testing.assert_allclose(vectors, [[0, 0.5, 0.5], [0, 0.5, 0.5]], atol=1e-6)
    assert len(encoder.fingerprint()) == 64
