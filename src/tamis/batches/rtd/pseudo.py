"""Pseudo-tokens: vectors that stand in for a word in the input of a text encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis import checks


def inject_pseudo_tokens(input_ids: Tensor, embeddings: Tensor, pseudo: Tensor, placeholder_id: int) -> Tensor:
    """Put each sequence's pseudo-token wherever its placeholder stands.

    The input of arXiv:2406.09188 (as in Pic2Word and LinCIR): ids stay as they are, so pooling at the end-of-text token
    finds its place.

    Args:
        input_ids: (n, l) int.
        embeddings: (n, l, h) float, of the tokens.
        pseudo: (n, h) float.
        placeholder_id: the id that marks the places, one or more per sequence.

    Returns:
        (n, l, h), a new tensor; gradients pass to both inputs.

    Raises:
        ValueError: for a sequence without the placeholder, or shapes that do not fit.

    Example:
        >>> inject_pseudo_tokens(torch.tensor([[5, 9]]), torch.zeros(1, 2, 1), torch.tensor([[7.0]]), 9).tolist()
        [[[0.0], [7.0]]]
    """
    checks.matrix("input_ids", input_ids)
    checks.require(
        embeddings.ndim == 3 and embeddings.shape[:2] == input_ids.shape,
        f"embeddings must be (n, l, h) with (n, l) = {tuple(input_ids.shape)}: got shape {tuple(embeddings.shape)}.",
    )
    checks.matrix("pseudo", pseudo)
    checks.require(
        pseudo.shape[1] == embeddings.shape[2],
        f"pseudo must have the width of the token embeddings: {embeddings.shape[2]}, got {pseudo.shape[1]}; the "
        "projector does not fit this encoder.",
    )
    checks.same_length("pseudo", pseudo, "input_ids", input_ids)
    places = input_ids == placeholder_id
    without = torch.nonzero(~places.any(dim=1)).flatten()
    checks.require(
        len(without) == 0,
        f"input_ids must hold the placeholder {placeholder_id} in every sequence: {len(without)} do not, the first is "
        f"row {int(without[0]) if len(without) else 0}.",
    )
    return torch.where(places[:, :, None], pseudo[:, None].to(embeddings.dtype), embeddings)
