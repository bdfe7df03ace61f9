"""GISTEmbed's loss beside sentence-transformers' GISTEmbedLoss: forward and backward on ready-made embeddings.

    python benchmarks/gistembed.py [--batch 1024] [--columns 384] [--threads 1]

Both get the same random anchors, positives and guide embeddings; each runs in a process of its own. The peer broadcasts
to (batch, batch, columns) and needs 15.5 GB at batch 1,024 and 384 columns, so it runs alone and only where there is
room. Before the times, value and gradients of the two are compared at batch 64.
"""

from __future__ import annotations

import argparse
import re
import statistics
from pathlib import Path
from typing import Any

import measure
import torch

from tamis.losses import GISTEmbedLoss

TEMPERATURE = 0.05
NEEDED_GB = 17.0  # at batch 1,024 and 384 columns, with room for the process itself


class Given(torch.nn.Module):
    """A model for the peer whose embeddings are the features that it is handed."""

    max_seq_length = 8

    def __init__(self, column: str) -> None:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        super().__init__()
        self.column = column
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the peer reads the embeddings from."""
        return {"sentence_embedding": features[self.column]}


def tamis_loss(students, guides, *, chunk_rows=None):
    # mask_self=False is what the peer does; the chance that it matters here is nil.
    loss = GISTEmbedLoss(temperature=TEMPERATURE, mask_self=False, chunk_rows=chunk_rows, warn_above=1.0)
    return loss(*students, guide_anchors=guides[0], guide_positives=guides[1])


def peer_loss(students, guides):
    import sentence_transformers.sentence_transformer.losses.gist_embed as peer

    # Only the loss is timed: the embeddings are there.
    peer.embed_columns = lambda model, features: [model(f)["sentence_embedding"] for f in features]
    loss = peer.GISTEmbedLoss(Given("student"), Given("guide"), temperature=TEMPERATURE)
    return loss([{"student": s, "guide": g} for s, g in zip(students, guides, strict=True)], torch.empty(0))


def data(batch: int, columns: int):
    """Students at random; guides of batch / 4 topics, so that a part of the candidates is masked."""
    rng = torch.Generator().manual_seed(0)
    topics = torch.randn(batch // 4, columns, generator=rng)[torch.arange(batch) % (batch // 4)]
    students = [torch.randn(batch, columns, generator=rng).requires_grad_() for _ in range(2)]
    return students, [topics + 0.5 * torch.randn(batch, columns, generator=rng) for _ in range(2)]


def cell(*, library: str, batch: int, columns: int, repeats: int, threads: int, chunk_rows=None) -> dict[str, Any]:
    """Median CPU and wall seconds of forward and backward, and the highest memory above what was there before."""
    measure.set_threads(threads)
    call = peer_loss if library == "peer" else lambda *x: tamis_loss(*x, chunk_rows=chunk_rows)
    warm = peer_loss if library == "peer" else lambda *x: tamis_loss(*x, chunk_rows=chunk_rows and 4)
    warm(*data(8, 16)).backward()  # imports and first-call costs are not the loss
    students, guides = data(batch, columns)
    times = []
    with measure.PeakMemory() as memory:
        for _ in range(repeats):
            for x in students:
                x.grad = None
            with measure.Timer() as timer:
                value = call(students, guides)
                value.backward()
            times.append((timer.cpu, timer.wall))
    cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
    return {"cpu": cpu, "wall": wall, "mb": memory.above, "loss": value.item()}


def compare(batch: int, columns: int) -> tuple[float, float]:
    """Largest difference of the two losses' values and gradients, the latter relative to the largest gradient."""
    students, guides = data(batch, columns)
    ours, theirs = tamis_loss(students, guides), peer_loss(students, guides)
    pairs = list(zip(torch.autograd.grad(ours, students), torch.autograd.grad(theirs, students), strict=True))
    largest = max(float(theirs_.abs().max()) for _, theirs_ in pairs)
    apart = max(float((ours_ - theirs_).abs().max()) for ours_, theirs_ in pairs)
    return abs(ours.item() - theirs.item()), apart / largest


def available_gb() -> float:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found.group(1)) * 1024 / 1e9 if found else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    size = {"batch": options.batch, "columns": options.columns, "threads": options.threads}
    measure.set_threads(options.threads)

    value, gradient = compare(64, options.columns)
    ours = measure.run_cell(__file__, library="tamis", repeats=7, **size)
    chunked = measure.run_cell(__file__, library="tamis", repeats=7, chunk_rows=64, **size)
    needed = 1 + (NEEDED_GB - 1) * options.batch**2 * options.columns / (1024**2 * 384)
    room = available_gb()
    if room < needed:
        peer = {"error": f"not run: it needs {needed:.1f} GB and {room:.1f} GB are available"}
    else:
        peer = measure.run_cell(__file__, library="peer", repeats=1, **size)

    print(f"GISTEmbed loss, forward + backward, batch {options.batch}, {options.columns} columns")
    if "error" not in peer:
        for name, row in (("tamis", ours), ("tamis, 64 rows at a time", chunked)):
            print(f"{name}: {peer['cpu'] / row['cpu']:.0f}x less CPU time, {peer['mb'] / row['mb']:.0f}x less memory")
    print(f"{'':28} {'CPU s':>9} {'wall s':>9} {'MB above':>10} {'loss':>10}")
    for name, row in (("sentence-transformers", peer), ("tamis", ours), ("tamis, 64 rows at a time", chunked)):
        if "error" in row:
            print(f"{name:28} {row['error']}")
        else:
            print(f"{name:28} {row['cpu']:9.3f} {row['wall']:9.3f} {row['mb']:10.1f} {row['loss']:10.6f}")
    print(f"at batch 64 the values differ by {value:.1e}, the gradients by {gradient:.1e} of the largest")
    import sentence_transformers

    print(f"{measure.machine()}, sentence-transformers {sentence_transformers.__version__}, threads {options.threads}")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
