"""Broken files for every reader: valid files are damaged at random, and nothing but data or one line may come of them.

``python tests/fuzz_readers.py --cases 100000`` runs it at length and prints cases, seconds and outcomes; a small form
is in ``test_robustness.py``. Each batch of cases runs in a process of its own, so that a crash is told with its seed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from tamis import data, trec
from tamis.files import read_embeddings
from tamis.results import Table

PAIRS = [("what is a sieve", "a tool"), ("what is flour", "ground grain"), ("what is a sieve", "a mesh in a frame")]
IDS = ["a", "b", "7"]
SLOWEST = 5.0
TOKENS = [
    b"", b"\0", b"\n", b"\r\n", b"\r", b"\t", b" ", b'"', b'""', b"\\", b"\\u0000", b"\\ud800", b"\\udfff\\ud800",
    b"'", b"{", b"}", b"[", b"]", b",", b":", b"[" * 3000, b'{"a":' * 3000, b"{}", b"[]", b"null", b"true", b"NaN",
    b"-Infinity", b"1" * 5000, b"-0", b"1e999", b"0.1", b"7", b'"7"', b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff",
    b"\xed\xa0\x80", b"\xff", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\x93NUMPY", b"\xe2\x80\xa8", b"\xc2\x85",
    b"\xf0\x9f\x98\x80", b"\x1b[31m", b'"query": "q", ', b'"query": 7, ', b'"positive": ["p"], ', b'"positive": {}, ',
    b'"_id": 7, ', b'"_id": true, ', b'"_id": "a", ', b'"text": null, ', b'"negative": [3], ', b'"split": "train", ',
    b'"metadata": {"doc_id": NaN}, ', b"query-id\tcorpus-id\tscore\n", b"a\tb\t1\n", b"a\tb\t0\n", b"a 0 b 1 nan x\n",
    b"x" * 200_000, b"'O'", b"<f8", b"\x80\x04",
]  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A kind of input: its files as bytes, which of them is broken, and how it is read.

    ``read`` gets the folder; what must stand in every message is its path.
    """

    files: dict[str, bytes]
    read: Callable[[Path], Any]


def forms() -> dict[str, Form]:
    """Every reader with a valid input."""
    rows = [{"query": q, "positive": p, "negative": None, "split": "train"} for q, p in PAIRS]
    plain = [{k: v for k, v in row.items() if v is not None} for row in rows]
    listed = [{**row, "positive": [row["positive"]], "metadata": {"doc_id": 7}} for row in plain]
    table = pa.table({"query": [q for q, _ in PAIRS], "pos": [[p] for _, p in PAIRS], "score": [1.5, 2.5, None]})
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    keyed = pa.table({"id": IDS, "embedding": list(vectors)})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table)
    run = b"".join(f"{q} Q0 {p} {i + 1} {9 - i}.5 bm25\n".encode() for q in IDS for i, p in enumerate(IDS))
    text = {
        "jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in plain + listed),
        "csv": b"query,positive,negative\n" + b"".join(f'{q},"{p}",\r\n'.encode() for q, p in PAIRS),
        "tsv": b"\xef\xbb\xbfquestion\tanswer\n" + b"".join(f"{q}\t{p}\n".encode() for q, p in PAIRS),
    }
    beir = {
        name: b"".join(json.dumps({"_id": i, "title": "", "text": f"text {i}"}).encode() + b"\n" for i in IDS)
        for name in ("corpus.jsonl", "queries.jsonl")
    } | {"qrels/train.tsv": b"query-id\tcorpus-id\tscore\na\tb\t1\nb\ta\t2\n7\ta\t0\n"}
    saved = {
        "state.json": json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}).encode(),
        "data-0.arrow": stream.getvalue(),
    }
    found = {
        name: Form({f"x.{name}": content}, lambda folder, name=name: sound(data.read(folder / f"x.{name}")))
        for name, content in text.items()
    }
    return found | {
        "parquet": Form({"x.parquet": _parquet(table)}, lambda folder: sound(data.read(folder / "x.parquet"))),
        "beir": Form(beir, lambda folder: sound(data.read(folder))),
        "saved dataset": Form(saved, lambda folder: sound(data.read(folder))),
        "saved splits": Form(
            {"dataset_dict.json": b'{"splits": ["train"]}'} | {f"train/{name}": raw for name, raw in saved.items()},
            lambda folder: sound(data.read(folder)),
        ),
        "npy": Form({"x.npy": _npy(vectors)}, lambda folder: sound_matrix(read_embeddings(folder / "x.npy"))),
        "embeddings": Form(
            {"x.parquet": _parquet(keyed)}, lambda folder: sound_matrix(read_embeddings(folder / "x.parquet", IDS))
        ),
        "trec": Form({"x.run": run}, lambda folder: trec.read_run(folder / "x.run", IDS, IDS)),
        "trec.gz": Form({"x.gz": gzip.compress(run, mtime=0)}, lambda folder: trec.read_run(folder / "x.gz", IDS, IDS)),
    }


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after an accident or more: a bit, a cut, a token, a part that is lost, doubled or moved."""
    raw = bytearray(content)
    for _ in range(int(rng.geometric(0.6))):
        at, other = (int(i) for i in np.sort(rng.integers(0, len(raw) + 1, 2)))
        match int(rng.integers(8)):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << int(rng.integers(8))
            case 1 if rng.random() < 0.3:
                del raw[at:]
            case 2:
                del raw[at : min(other, at + 9)]
            case 3:
                raw[at:at] = raw[at:other]
            case 4 if raw:
                raw[at % len(raw)] = int(rng.integers(256))
            case 5:
                raw[at : at + 4] = int(rng.integers(-(2**31), 2**31)).to_bytes(4, "little", signed=True)
            case _:
                raw[at:at] = TOKENS[int(rng.integers(len(TOKENS)))]
    return bytes(raw)


def outcome(form: Form, files: dict[str, bytes], folder: Path) -> str:
    """What reading gives: "data", or the name of a permitted exception with one line that names the place.

    Raises:
        AssertionError: for any other exception, or a message that is not one line or does not say where.
    """
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    start = time.perf_counter()
    try:
        form.read(folder)
        result = "data"
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = str(error)
        assert type(error) in (ValueError, TypeError, FileNotFoundError), f"{type(error).__name__}: {message}"
        assert str(folder) in message, f"the file is not named: {message}"
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        assert len(message) < 1500, f"no line to read: {message[:200]}..."
        result = type(error).__name__
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - start
    assert seconds < SLOWEST, f"took {seconds:.1f} s"
    return result


def case(form: Form, seed: int, folder: Path) -> tuple[str, dict[str, bytes]]:
    """One damaged input, and what comes of it; see ``outcome``."""
    rng = np.random.default_rng(seed)
    broken = list(form.files)[int(rng.integers(len(form.files)))]
    files = form.files | {broken: damaged(form.files[broken], rng)}
    try:
        return outcome(form, files, folder), files
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {broken} = {files[broken][:300]!r}: {error}") from error


def sound(found: data.RetrievalData) -> None:
    """Data that pass the door are whole."""
    for table in (found.queries, found.corpus):
        assert isinstance(table, Table) and len(table.ids) == len(table.texts) == len(set(table.ids)) > 0
        assert all(isinstance(text, str) and text.strip() and text.encode() for text in table.texts)
        assert all(isinstance(name, str) and name.strip() and name.encode() for name in table.ids)
    assert len(found.positives) == len(found.grades) == len(found.queries)
    for rows, grades in zip(found.positives, found.grades, strict=True):
        assert len(rows) == len(grades) > 0 and 0 <= rows.min() and rows.max() < len(found.corpus)
        assert np.isfinite(grades).all() and (grades > 0).all()


def sound_matrix(found: np.ndarray) -> None:
    """Embeddings that pass the door are a float matrix whose numbers can be read; finiteness is asked later."""
    assert found.ndim == 2 and found.dtype.kind == "f"
    with np.errstate(all="ignore"):
        found.astype(np.float32).sum()


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _batch(form: Form, seeds: range, place: Path) -> Counter[str]:
    """Outcomes of many cases, in a process of its own; a crash is one too."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        counts: Counter[str] = Counter()
        for seed in seeds:
            (place / "seed").write_text(str(seed))
            try:
                counts[case(form, seed, place)[0]] += 1
            except AssertionError as error:
                counts[f"BUG {error}"] += 1
        os.write(send, json.dumps(counts).encode()[:60_000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as answer:
        told = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        return Counter({f"BUG process ended with {status}, seed {(place / 'seed').read_text()}": 1})
    return Counter(json.loads(told))


def main() -> None:
    """Run at length and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of broken JSONL; a tenth of it of every other form")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one form")
    options = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    for name, form in forms().items():
        if options.only not in ("", name):
            continue
        cases = options.cases if name == "jsonl" else options.cases // 10
        start, counts, step = time.perf_counter(), Counter[str](), 2000
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            for low in range(0, cases, step):
                seeds = range(options.seed + low, options.seed + min(cases, low + step))
                counts += _batch(form, seeds, Path(folder))
        seconds = time.perf_counter() - start
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        good = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()) if not what.startswith("BUG"))
        print(f"{name:14} {cases:>7,} cases, {seconds:5.0f} s (CPU so far {cpu.ru_utime + cpu.ru_stime:.0f} s): {good}")
        for what, count in counts.items():
            if what.startswith("BUG"):
                print(f"  {count} x {what}")


if __name__ == "__main__":
    main()
