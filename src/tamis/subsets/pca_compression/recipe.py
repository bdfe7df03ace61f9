"""What a compressed set is worth: a fresh model trained on it for a fixed number of steps, and its bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis import checks
from tamis.randomness import child_seed


@dataclass(frozen=True)
class CompressionRecipe:
    """How models are trained, the same for all sets that are compared (the benchmark of arXiv:2502.06434).

    Args:
        steps: of the optimiser.
        batch_size: images of a step, drawn with replacement.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        learning_rate: at the start; it falls to 0 by a cosine.
        weight_decay: of the optimiser.
        temperature: of soft labels, divided out of both sides; the loss is not multiplied by its square.
    """

    steps: int = 300
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    temperature: float = 20.0


def evaluate_compressed(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    model_fn: Callable[[], nn.Module],
    recipe: CompressionRecipe | None = None,
    *,
    augment: Callable[[Tensor], Tensor] | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    draw: Callable[[int], Tensor] | None = None,
    seed: int = 0,
) -> float:
    """Train a fresh model on a set and test it.

    Args:
        images: (n, ...) float.
        labels: (n,) int.
        test_images: (t, ...) float.
        test_labels: (t,) int.
        model_fn: makes the model; its first weights follow from the seed.
        recipe: how to train.
        augment: batch of images to batch of images.
        teacher: inputs to logits; with it, soft labels of the augmented images replace the labels.
        draw: step to the rows of its batch, for samplers; left out, random rows.
        seed: of weights and batches.

    Returns:
        accuracy on the test.

    Raises:
        ValueError: for sets of different lengths or without rows, or a recipe without steps.

    Example:
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> recipe = CompressionRecipe(steps=60, batch_size=20, learning_rate=0.1)
        >>> evaluate_compressed(x, (x[:, 0] > 0).long(), x, (x[:, 0] > 0).long(), lambda: nn.Linear(3, 2), recipe) > 0.9
        True
    """
    how = recipe or CompressionRecipe()
    checks.same_length("labels", labels, "images", images)
    checks.same_length("test_labels", test_labels, "test_images", test_images)
    checks.require(len(images) > 0 and len(test_images) > 0, "images and test_images must have at least one row.")
    checks.at_least("steps", how.steps, 1)
    checks.one_of("optimizer", how.optimizer, ("adamw", "sgd"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, "model"))
        model = model_fn().to(images.device)
    rng = torch.Generator().manual_seed(child_seed(seed, "batches"))
    weights, lr, decay = model.parameters(), how.learning_rate, how.weight_decay
    optimizer: torch.optim.Optimizer
    if how.optimizer == "adamw":
        optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    model.train()
    for step in range(how.steps):
        rows = torch.randint(len(images), (how.batch_size,), generator=rng) if draw is None else draw(step)
        batch, wanted = images[rows.to(images.device)], labels[rows.to(labels.device)]
        batch = batch if augment is None else augment(batch)
        logits = model(batch)
        if teacher is None:
            loss = F.cross_entropy(logits, wanted)
        else:
            with torch.no_grad():
                soft = (teacher(batch) / how.temperature).softmax(1)
            loss = F.kl_div((logits / how.temperature).log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(test_images).argmax(1) == test_labels).double().mean())


def storage_bytes(
    images: int, image_shape: Sequence[int], *, classes: int | None = None, views: int = 1, bytes_per_number: int = 2
) -> int:
    """Bytes of a set: images of one byte a number, and its labels.

    Args:
        images: stored images.
        image_shape: of one.
        classes: where labels are soft, their number; left out, labels are hard and take two bytes.
        views: augmented views per image that have soft labels of their own.
        bytes_per_number: of a soft label.

    Returns:
        bytes.

    Example:
        >>> hard, soft = storage_bytes(10, (3, 8, 8)), storage_bytes(10, (3, 8, 8), classes=1000, views=300)
        >>> hard, soft
        (1940, 6001920)
    """
    labels = 2 if classes is None else classes * views * bytes_per_number
    return images * (math.prod(image_shape) + labels)
