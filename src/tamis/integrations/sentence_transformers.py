"""sentence-transformers: its models as encoders, and its cross-encoders as second opinions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis import checks, encoders, files

Array = np.ndarray[Any, Any]
_LETTERS_PER_TOKEN = 64


class SentenceEncoder:
    """A sentence-transformers model as an encoder with a name, prompts and a fingerprint of its weights.

    Args:
        model: a ``SentenceTransformer``.
        name: what reports call it; left out, the name of its base model.
        batch_size: texts per forward pass.
    """

    def __init__(self, model: Any, *, name: str = "", batch_size: int = 64) -> None:
        self.model = model
        self.name = name or getattr(model.model_card_data, "base_model", None) or "SentenceTransformer"
        self.batch_size = batch_size

    @classmethod
    def load(cls, name: str, *, max_length: int | None = None) -> SentenceEncoder:
        """Load a model by name or folder; code that a model brings along is never run.

        Weights are taken from safetensors where there are any; a pickle of weights is read as tensors alone, and one
        that holds anything else is refused.

        Args:
            name: folder, or name on the hub (naming it is asking for it to be fetched).
            max_length: tokens after which texts are cut, instead of the model's own.

        Returns:
            the encoder.

        Raises:
            ValueError: when there is no such model; one line.
        """
        library = checks.package("sentence_transformers")
        _refuse_foreign_modules(name)
        with files.parsing(name, "model"):
            model = library.SentenceTransformer(name, trust_remote_code=False)
        if max_length is not None:
            model.max_seq_length = max_length
        folder = Path(name)
        # A package calls its folder "model"; the package's name says more.
        known = folder.parent.name if folder.name == "model" else folder.name
        return cls(model, name=known if folder.exists() else name)

    @property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts for "query" and "passage", where it has any."""
        own = dict(self.model.prompts or {})
        passage = own.get("document") or own.get("passage") or ""
        return {"query": own.get("query") or "", "passage": passage}

    def encode(self, texts: Sequence[str]) -> Array:
        """Vectors (n, d) float32 of n texts, not scaled; texts are sorted by length inside."""
        # Of a text of megabytes a model reads the first page: the tokenizer need not spend gigabytes on the rest.
        limit = self.model.max_seq_length  # None or infinity for a model of static vectors
        longest = int(_LETTERS_PER_TOKEN * limit) if limit and math.isfinite(limit) else None
        vectors = self.model.encode(
            [text[:longest] for text in texts], prompt="", batch_size=self.batch_size, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    def fingerprint(self) -> str:
        """A digest of the model in memory: modules with their settings, weights, tokenizer and truncation."""
        tokenizer = getattr(self.model, "tokenizer", None)
        parts = (
            str(self.model.max_seq_length),
            encoders.module_digest(self.model),
            "" if tokenizer is None else encoders.tokenizer_digest(tokenizer),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class CrossEncoderScorer:
    """A sentence-transformers cross-encoder as a scorer of (query, passage) pairs that gives logits.

    A model's own last step, often a sigmoid, is left out, so that the margin has one meaning for all models.

    Args:
        model: a ``CrossEncoder`` with one output.
        name: what reports call it.
        batch_size: pairs per forward pass.

    Raises:
        ValueError: for a model with several outputs.
    """

    def __init__(self, model: Any, *, name: str = "CrossEncoder", batch_size: int = 32) -> None:
        outputs = int(model.config.num_labels)
        checks.require(outputs == 1, f"cross-encoder {name!r} must have one output, a relevance: it has {outputs}.")
        self.model, self.name, self.batch_size = model, name, batch_size

    @classmethod
    def load(cls, name: str, *, max_length: int | None = None, trust_remote_code: bool = False) -> CrossEncoderScorer:
        """Load a cross-encoder by name or folder.

        Args:
            name: folder, or name on the hub (naming it is asking for it to be fetched).
            max_length: tokens after which pairs are cut, instead of the model's own.
            trust_remote_code: run code that the model brings along; never unless it is asked for.

        Returns:
            the scorer.

        Raises:
            ValueError: when there is no such model, or it has several outputs; one line.
        """
        library = checks.package("sentence_transformers")
        if name.startswith((".", "/", "~")):
            there = (Path(name).expanduser() / "config.json").exists()
            checks.require(there, f"cross-encoder {name} is no folder with a model: it has no config.json.")
        try:
            saved = checks.package("transformers").AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            model = library.CrossEncoder(name, max_length=max_length, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            raise ValueError(f"cross-encoder {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
        head, kinds = "ForSequenceClassification", list(getattr(saved, "architectures", None) or [])
        # An encoder loads as a cross-encoder too, with a last layer of random numbers.
        checks.require(
            not kinds or not type(model.model).__name__.endswith(head) or any(kind.endswith(head) for kind in kinds),
            f"cross-encoder {name!r} has no trained relevance: its files hold {', '.join(kinds)}; name a reranker.",
        )
        return cls(model, name=Path(name).name if Path(name).exists() else name)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """Logits (m,) float32 of m (query, passage) texts."""
        given = self.model.predict(
            [list(pair) for pair in pairs],
            activation_fn=torch.nn.Identity(),
            batch_size=self.batch_size,
            show_progress_bar=False,
        )
        return np.asarray(given, dtype=np.float32).reshape(-1)

    def fingerprint(self) -> str:
        """A digest of the model in memory: modules with their settings, weights, tokenizer and truncation."""
        model = self.model
        parts = (
            # The newer name first: the older one warns where both are there.
            str(model.max_seq_length if hasattr(model, "max_seq_length") else model.max_length),
            encoders.module_digest(self.model),
            encoders.tokenizer_digest(self.model.tokenizer),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _refuse_foreign_modules(name: str) -> None:
    """Stop before a model's own code is imported: some versions of the library trust the code of any local folder."""
    with files.parsing(name, "model"):
        modules = Path(name) / "modules.json"
        kinds = [str(module["type"]) for module in json.loads(modules.read_bytes())] if modules.exists() else []
    foreign = next((kind for kind in kinds if not kind.startswith("sentence_transformers.")), None)
    checks.require(
        foreign is None,
        f"model {name} brings code of its own ({checks.shown(foreign)}), which is never run: load it yourself and give "
        "the object as encoder.",
    )
