"""A sentence-transformers model small enough for tests: two layers, random weights, the words of the verses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from tests import verses


def save(folder: Path) -> Path:
    """Build the model and save it; nothing is fetched, and the global random state stays as it is."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    counts = Counter(w.strip(".,;:?!'\"").lower() for row in verses.rows() for w in row[1].split())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(w for w, n in counts.items() if w and n > 3)]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
        transformers.BertModel(config).save_pretrained(folder / "bert")
    vocabulary = {word: i for i, word in enumerate(words)}
    transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder / "bert")
    model = SentenceTransformer(modules=[modules.Transformer(str(folder / "bert")), modules.Pooling(32)])
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"
