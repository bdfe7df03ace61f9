"""sentence-transformers: its models as encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis import checks

Array = np.ndarray[Any, Any]


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

        Args:
            name: folder, or name on the hub (naming it is asking for it to be fetched).
            max_length: tokens after which texts are cut, instead of the model's own.

        Returns:
            the encoder.

        Raises:
            ValueError: when there is no such model; one line.
        """
        library = checks.package("sentence_transformers")
        try:
            model = library.SentenceTransformer(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"encoder {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
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
        vectors = self.model.encode(list(texts), prompt="", batch_size=self.batch_size, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def fingerprint(self) -> str:
        """A digest of all weights, the truncation and the modules: any change of them changes it."""
        digest = hashlib.sha256(repr((self.model.max_seq_length, str(self.model))).encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(key.encode() + raw.numpy().tobytes())
        return digest.hexdigest()
