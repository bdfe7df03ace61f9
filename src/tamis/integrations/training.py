"""Training on mined negatives with sentence-transformers' own trainer.

A batch is b queries with one positive each and the mined negatives of those queries, any number per query and each
once. Every query meets every passage of the batch, except those that are known to answer it: they get the log-weight
``-inf``, whether they came as another query's positive, as its negative, or under another id with the same text. The
negatives can be mined again between epochs, see ``tamis.integrations.refresh``: rows, optimiser and schedule go on.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks, runs
from tamis.integrations.objectives import BatchFacts, Objective
from tamis.integrations.refresh import Refreshed, check, refresh
from tamis.ngrams import text_groups
from tamis.randomness import child_seed
from tamis.results import MinedNegatives

Array = np.ndarray[Any, Any]
VECTORS = "refresh"
"""Folder inside the output that holds vectors while a training with refreshes runs."""


class MinedRows:
    """(query, positive) pairs with the negatives of the query, and what is known to answer each query.

    Args:
        mined: the negatives.
        negatives: at most this many per query, the first of the list; 0 trains on in-batch negatives only.
    """

    def __init__(self, mined: MinedNegatives, *, negatives: int) -> None:
        counts = [len(p) for p in mined.positives]
        self.queries = np.repeat(np.arange(len(counts)), counts)
        self.positives = np.concatenate(mined.positives)
        self.texts = mined.queries.texts, mined.corpus.texts
        self.groups, self.query_groups = text_groups(mined.corpus.texts, mined.queries.texts)
        self.limit = negatives
        self.answers = [np.unique(self.groups[p]) for p in mined.positives]
        self.take(mined)

    def take(self, mined: MinedNegatives) -> None:
        """Use other negatives of the same queries, passages and positives from now on."""
        order = np.argsort(mined.negatives["query"], kind="stable")
        self.indptr = np.searchsorted(mined.negatives["query"][order], np.arange(len(self.answers) + 1))
        self.negatives = mined.negatives["negative"][order]
        self.log_weights = np.log(mined.negatives["weight"][order].astype(np.float64)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.queries)

    def keys(self) -> Array:
        """(rows, 2) identities that no batch should hold twice: the query's text and the positive's text."""
        return np.stack([self.query_groups[self.queries], self.groups[self.positives]], 1)

    def batch(self, rows: Sequence[int]) -> tuple[list[str], list[str], BatchFacts]:
        """Texts of queries and passages, and the facts, of some rows."""
        index = np.asarray(rows)
        queries, positives = self.queries[index], self.positives[index]
        places = [np.arange(self.indptr[q], min(self.indptr[q + 1], self.indptr[q] + self.limit)) for q in queries]
        flat = np.concatenate([np.empty(0, np.int64), *places])
        negatives = np.setdiff1d(self.negatives[flat], positives)
        passages = np.concatenate([positives, negatives])
        log_weights = np.zeros((len(queries), len(passages)), np.float32)
        for row, (query, own) in enumerate(zip(queries, places, strict=True)):
            column = len(queries) + np.searchsorted(negatives, self.negatives[own])
            fresh = np.isin(self.negatives[own], negatives)
            log_weights[row, column[fresh]] = self.log_weights[own][fresh]
            log_weights[row, np.isin(self.groups[passages], self.answers[query])] = -np.inf
            log_weights[row, row] = 0.0
        facts = BatchFacts(torch.from_numpy(log_weights), torch.from_numpy(queries), torch.from_numpy(passages))
        return [self.texts[0][q] for q in queries], [self.texts[1][p] for p in passages], facts


class MinedCollator:
    """Turns row numbers into the features that the trainer hands to the model.

    Args:
        rows: the training rows.
        preprocess: the model's tokenisation, texts -> features.
        prompts: put before queries and passages.
    """

    valid_label_columns: tuple[str, ...] = ("label",)

    def __init__(
        self, rows: MinedRows, preprocess: Callable[[list[str]], dict[str, Tensor]], prompts: tuple[str, str]
    ) -> None:
        self.rows, self.preprocess, self.prompts = rows, preprocess, prompts

    def __call__(self, items: list[dict[str, int]]) -> dict[str, Any]:
        """Features of queries and passages under prefixes, and the facts as the label."""
        queries, passages, facts = self.rows.batch([item["row"] for item in items])
        features: dict[str, Any] = {"label": vars(facts)}
        for name, prompt, texts in (("query", self.prompts[0], queries), ("passage", self.prompts[1], passages)):
            for key, value in self.preprocess([prompt + text for text in texts]).items():
                features[f"{name}_{key}"] = value
        return features


class MinedLoss(nn.Module):
    """Embeds the batch and hands tensors to an objective; the only part that knows the model.

    Args:
        model: a ``SentenceTransformer``.
        objective: see ``Objective``.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, features: Sequence[dict[str, Tensor]], labels: dict[str, Tensor]) -> Tensor:
        """The loss of a batch."""
        queries, passages = (self.model(dict(f))["sentence_embedding"] for f in features)
        facts = BatchFacts(**labels)
        return self.objective(queries, passages[: len(queries)], passages[len(queries) :], facts)


def train(
    model: Any,
    mined: MinedNegatives,
    objective: Objective,
    *,
    batch_sampler: Any,
    output: Path,
    negatives: int = 8,
    epochs: float = 1.0,
    steps: int | None = None,
    learning_rate: float = 2e-5,
    warmup: float = 0.1,
    freeze_layers: int = 0,
    prompts: tuple[str, str] = ("", ""),
    refresh_every: int | None = None,
    guide: Any = None,
    known: Path | None = None,
    on_refresh: Callable[[Refreshed], None] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a ``SentenceTransformer`` in place on mined negatives.

    Nothing is saved on the way: a training that was stopped starts again from its first step.

    Args:
        model: the model; its weights change.
        mined: the negatives.
        objective: one of ``tamis.integrations.objectives`` or your own.
        batch_sampler: yields lists of rows, see ``MinedRows.keys`` for what they must not repeat.
        output: folder for the trainer's own files.
        negatives: at most this many mined negatives per query; 0 for in-batch negatives only.
        epochs: passes over the rows, unless ``steps`` is given.
        steps: optimiser steps.
        learning_rate: of AdamW, after a linear warm-up, falling linearly to zero.
        warmup: share of the steps.
        freeze_layers: the embeddings and this many lower layers do not learn.
        prompts: put before queries and passages.
        refresh_every: mine again with the weights of the moment after every so many epochs; None never does.
        guide: the guide that was mined with, if there was one; asked for only when there are refreshes.
        known: folder of the mining run; its vectors are read while the weights are equal.
        on_refresh: called after each refresh, before the next epoch.
        seed: of everything that is drawn.
        progress: show the trainer's bar.

    Returns:
        steps, mean loss, seconds, and the reports of the refreshes with the epoch and step that they came after.

    Raises:
        ValueError: for a refresh that would never come or cannot be made; one line.
    """
    library = checks.package("sentence_transformers")
    dataset = checks.package("datasets").Dataset
    if refresh_every is not None:
        total = steps or math.ceil(epochs * len(batch_sampler))
        _check_refresh(refresh_every, mined, guide, negatives, total, len(batch_sampler))
    rows = MinedRows(mined, negatives=negatives)
    frozen = freeze(model, freeze_layers)
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        max_steps=steps or -1,
        per_device_train_batch_size=1,  # the batch sampler decides
        learning_rate=learning_rate,
        warmup_steps=warmup,
        batch_sampler=lambda *_, **__: batch_sampler,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not progress,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=child_seed(seed, "train") % 2**31,
    )
    # The trainer would draw its example for the model card from rows of numbers.
    queries, passages, _ = rows.batch([0])
    model.model_card_data.widget = [{"source_sentence": queries[0], "sentences": passages[:3]}]
    collator = MinedCollator(rows, model.preprocess, prompts)
    trainer = library.SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset.from_dict({"row": np.arange(len(rows))}),
        loss=MinedLoss(model, objective),
        data_collator=collator,
    )
    trainer.remove_callback(checks.package("transformers").PrinterCallback)
    reports: list[dict[str, Any]] = []
    held = nullcontext(output) if refresh_every is None else runs.locked(output / VECTORS)
    try:
        with held as folder:
            if refresh_every is not None:
                one = arguments.world_size == 1
                checks.require(one, f"refresh_every works in one process: this is one of {arguments.world_size}.")

                def again(current: MinedNegatives) -> Refreshed:
                    return refresh(
                        current, model, prompts=prompts, negatives=negatives, guide=guide, folder=folder, known=known
                    )

                trainer.add_callback(_between_epochs(refresh_every, mined, rows, again, reports, on_refresh))
            result = trainer.train()
            if refresh_every is not None:
                shutil.rmtree(folder)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.eval()
    seconds = result.metrics["train_runtime"]
    return {"steps": result.global_step, "loss": result.training_loss, "seconds": seconds, "refreshes": reports}


def freeze(model: nn.Module, layers: int) -> list[nn.Parameter]:
    """Take the embeddings and the first ``layers`` transformer layers out of the training.

    Args:
        model: any model whose layers are named ``...layer.<i>...`` or ``...layers.<i>...``.
        layers: how many; 0 takes out nothing.

    Returns:
        the parameters that were taken out.

    Raises:
        ValueError: when no parameter has such a name.
    """
    if layers == 0:
        return []
    names = [f".{kind}.{i}." for kind in ("layer", "layers") for i in range(layers)]
    found = [p for n, p in model.named_parameters() if any(m in n for m in names) or ".embeddings." in n]
    checks.require(bool(found), "freeze_layers must be 0 here: the model has no layers with numbers to freeze.")
    learning = [p for p in found if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    return learning


def _check_refresh(
    every: int, mined: MinedNegatives, guide: Any, negatives: int, steps: int, steps_per_epoch: int
) -> None:
    """Say in one line why a refresh would never come or cannot be made."""
    checks.require(
        isinstance(every, int) and every >= 1,
        f"refresh_every must be a whole number of epochs, at least 1: got {every!r}.",
    )
    checks.require(negatives > 0, "refresh_every needs mined negatives in the batches: negatives is 0.")
    check(mined, guide)
    checks.require(
        every * steps_per_epoch < steps,
        f"refresh_every {every} never comes: the training has {steps:,} steps and an epoch {steps_per_epoch:,}; "
        "raise epochs or steps.",
    )


def _between_epochs(
    every: int,
    mined: MinedNegatives,
    rows: MinedRows,
    again: Callable[[MinedNegatives], Refreshed],
    reports: list[dict[str, Any]],
    on_refresh: Callable[[Refreshed], None] | None,
) -> Any:
    """A callback that gives the rows new negatives after an epoch that others follow, and touches nothing else."""
    epoch = 0

    def on_epoch_end(_: Any, __: Any, state: Any, ___: Any, **____: Any) -> None:
        nonlocal mined, epoch
        epoch += 1
        if epoch % every or epoch >= state.num_train_epochs or state.global_step >= state.max_steps:
            return
        found = again(mined)
        mined = found.mined
        rows.take(mined)
        found.report.update(epoch=epoch, step=state.global_step)
        reports.append(found.report)
        if on_refresh is not None:
            on_refresh(found)

    # The base class is known only once the library is there.
    return type("BetweenEpochs", (checks.package("transformers").TrainerCallback,), {"on_epoch_end": on_epoch_end})()
