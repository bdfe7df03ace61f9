"""RTD: a text encoder learns to compose from text triplets, each reference caption a batch-mate of its own target.

Zero-shot composed retrieval turns an image into a pseudo-token and encodes "a photo of [$] that is red", which the text
encoder was never trained for. RTD trains that encoder alone on triplets (reference, condition, target) of text: the
noisy embedding of the reference caption stands in for the image. Targets come from a frozen copy, the anchor, so the
encoder stays in the space of the images. The refined batch adds every reference caption as a second target, which the
query without the condition must find and the query with it must not. ``objectives`` holds batch and loss, ``pseudo``
the pseudo-tokens, ``training`` the loop.
"""

from __future__ import annotations

from tamis.batches.rtd.objectives import TargetAnchoredContrastive as TargetAnchoredContrastive
from tamis.batches.rtd.objectives import noisy_projection as noisy_projection
from tamis.batches.rtd.objectives import refined_batch as refined_batch
from tamis.batches.rtd.pseudo import inject_pseudo_tokens as inject_pseudo_tokens
from tamis.batches.rtd.training import RTDTrainer as RTDTrainer
from tamis.method import Method

METHOD = Method(
    title="Reducing Task Discrepancy of Text Encoders for Zero-Shot Composed Image Retrieval",
    paper="arXiv:2406.09188",
    year=2024,
    code="jaeseokbyun/RTD",
    claim="Text triplets alone teach a text encoder to compose: R@1 with images rises far above the frozen encoder.",
    peers=(),
    deviations=(
        "the loss is the official two-sided one; symmetric=False is one-way, which the paper's formula may mean",
        "equal captions of a batch are no negatives of one another; mask_duplicates=False keeps them, as officially",
        "pseudo-tokens are found by their own id, so the placeholder may occur in texts",
        "the softmax is computed in float32 without exponentiating 1 / temperature, which overflows in half precision",
    ),
)
