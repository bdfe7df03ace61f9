"""Encoders: names become models, vectors are kept by shards and never served stale."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tamis import encoders
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
