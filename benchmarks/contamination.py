"""N-gram contamination of a million training texts by a test set, beside a dictionary of n-grams and beside datatrove.

    python benchmarks/contamination.py [--rows 1000000] [--tests 5000] [--n 8] [--real] [--peer PYTHON]

Texts of twenty words drawn by Zipf's law, or with --real the service documentation of the packages botocore and
google-api-python-client, repeated with a number in front until there are enough. Of every fifty training texts one
holds a test text's first ten words. Tamis scores every test text by four metrics and names the row that holds its
longest match; the plain program has a set of the test n-grams as tuples and says which training texts hold one, which
is the least that removal needs; datatrove's filter does the same from hashes, in the Python that --peer names, with a
blank spaCy tokenizer as it comes. All stream from a file of a text per line. Rows found are compared with the plain
program's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import measure
import numpy as np

from tamis.evaluation import ContaminationAudit
from tamis.ngrams import normalise
from tamis.tokens import text_blocks

WORDS, VOCABULARY = 20, 50_000
PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.text import ngrams, simplify_text
folder, n, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
step = NGramsDecontFilter(folder, NGramsDecontConfig(n_grams=n))
cut = lambda text: ngrams(step.tokenizer.word_tokenize(simplify_text(text, step.config.norm_config)), n)
step._index_hashes = {step.hash_func(" ".join(g)): "test" for line in open(folder + "/tests.txt") for g in cut(line)}
start, found = time.process_time(), 0
with open(folder + "/train.txt") as file:
    for row, line in zip(range(rows), file):
        found += step.filter(Document(text=line, id=str(row))) is not True
print(json.dumps({"cpu": time.process_time() - start, "found": found}))
"""


def generated(rows: int, rng: np.random.Generator) -> Iterator[str]:
    weight = 1 / np.arange(1, VOCABULARY + 1)
    # Of letters alone: datatrove makes one word of all numbers.
    names = np.array(
        ["".join(letters) for letters in islice(product("etaoinshrdlucmfwypvbgkjqxz", repeat=4), VOCABULARY)]
    )
    for start in range(0, rows, 10_000):
        drawn = rng.choice(VOCABULARY, (min(10_000, rows - start), WORDS), p=weight / weight.sum())
        yield from map(" ".join, names[drawn])


def documentation(rows: int) -> Iterator[str]:
    """Texts of services in two packages, again and again with a number in front."""
    import gzip
    import importlib.util
    import re

    def folder(name: str) -> Path:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise SystemExit("--real needs: pip install --no-deps botocore google-api-python-client")
        return Path(found.origin).parent

    def texts(node: Any) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, str) and key in ("documentation", "description"):
                yield " ".join(re.sub(r"<[^>]+>", " ", value).split())
            elif isinstance(value, dict | list):
                yield from texts(value)

    def every() -> Iterator[str]:
        files = [*(folder("botocore") / "data").rglob("service-2.json*")]
        files += (folder("googleapiclient") / "discovery_cache" / "documents").glob("*.json")
        for path in sorted(files):
            raw = path.read_bytes()
            yield from texts(json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw))

    distinct = list(islice(dict.fromkeys(text for text in every() if len(text.split()) >= 3), rows))
    for row in range(rows):
        again, place = divmod(row, len(distinct))
        yield f"{again} {distinct[place]}" if again else distinct[place]


def write(folder: Path, *, rows: int, tests: int, real: bool) -> int:
    """Write train.txt and tests.txt; their size in words."""
    rng = np.random.default_rng(0)
    held = list(generated(tests, rng))
    size = 0
    (folder / "tests.txt").write_text("".join(text + "\n" for text in held))
    with (folder / "train.txt").open("w") as file:
        for row, text in enumerate(documentation(rows) if real else generated(rows, rng)):
            if row % 50 == 0:
                text = f"{text} {' '.join(held[row // 50 % tests].split()[:10])}"
            size += len(text.split())
            file.write(text + "\n")
    return size


def cell(*, what: str, folder: str, n: int, threads: int) -> Any:
    measure.set_threads(threads)
    tests = (Path(folder) / "tests.txt").read_text().splitlines()
    found: list[int] = []
    with (Path(folder) / "train.txt").open() as file, measure.PeakMemory() as memory, measure.Timer() as timer:
        lines = (line.rstrip("\n") for line in file)
        if what == "tamis":
            audit, done = ContaminationAudit(tests, n=n), 0
            for block in text_blocks(lines):
                rows = audit.update(block).rows
                found += np.unique(rows).tolist()
                done += len(block)
            audit.result()
        else:
            seen = set()
            for text in tests:
                words = normalise(text).split()
                seen.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            for row, text in enumerate(lines):
                words = normalise(text).split()
                if any(tuple(words[i : i + n]) in seen for i in range(len(words) - n + 1)):
                    found.append(row)
    return {"cpu": timer.cpu, "wall": timer.wall, "mb": memory.above, "found": len(found), "sum": sum(found)}


def peer(python: str, folder: Path, n: int, rows: int) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", PEER, str(folder), str(n), str(rows)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 else {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tests", type=int, default=5_000)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--real", action="store_true", help="documentation instead of generated texts")
    parser.add_argument("--peer", default="", help="a Python with datatrove and spacy")
    parser.add_argument("--peer-rows", type=int, default=20_000, help="rows for datatrove, scaled up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, rows=options.rows, tests=options.tests, real=options.real)
        results = {}
        for what in ("tamis", "plain set"):
            arguments = {"what": what, "folder": name, "n": options.n, "threads": options.threads}
            runs = [measure.run_cell(__file__, **arguments) for _ in range(options.repeats)]
            results[what] = min(runs, key=lambda row: row.get("cpu", np.inf))
        if options.peer:
            rows = min(options.rows, options.peer_rows)
            found = peer(options.peer, folder, options.n, rows)
            if "cpu" in found:
                found["cpu"] *= options.rows / rows
            results[f"datatrove, {rows:,} rows scaled"] = found
    kind = "texts of documentation" if options.real else "generated texts"
    print(f"{options.rows:,} {kind}, {size:,} words; {options.tests:,} test texts, {options.n}-grams")
    ours = results["tamis"]
    for name, row in results.items():
        if name != "tamis" and "cpu" in row and "cpu" in ours:
            print(f"{row['cpu'] / ours['cpu']:.1f}x less CPU time than {name}")
    plain = results["plain set"]
    if "sum" in ours and "sum" in plain:
        same = (ours["found"], ours["sum"]) == (plain["found"], plain["sum"])
        print(f"rows found are {'the same' if same else 'NOT the same'} as the plain program's")
    print(f"{'':30} {'CPU s':>8} {'texts/s':>10} {'MB above':>9} {'rows found':>11}")
    for name, row in results.items():
        if "error" in row:
            print(f"{name:30} {row['error']}")
        else:
            speed = options.rows / row["cpu"]
            print(f"{name:30} {row['cpu']:8.2f} {speed:10,.0f} {row.get('mb', np.nan):9.1f} {row['found']:11,}")
    print(f"\n{measure.machine()}, threads {options.threads}")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
