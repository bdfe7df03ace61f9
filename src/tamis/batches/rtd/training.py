"""The loop: a text encoder, its frozen copy, a frozen projector, and triplets of text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.batches.rtd.objectives import TargetAnchoredContrastive, noisy_projection, refined_batch
from tamis.batches.rtd.pseudo import inject_pseudo_tokens
from tamis.randomness import child_seed, torch_generator


class RTDTrainer:
    """Trains a text encoder on text triplets so that it can compose a pseudo-token with a condition.

    Section 3 of arXiv:2406.09188. The encoder is trained in place; ``anchor`` is a frozen copy of it as it came, and
    the projector is never trained. Texts are lower-cased and lose "$", as officially. Not for an encoder that already
    sees composed queries in training: what it mends is the gap between plain captions and these.

    Args:
        text_encoder: called with ``input_ids`` and ``attention_mask``, gives embeddings (n, d) or an object with them
            as ``text_embeds``, and has ``get_input_embeddings()``: ``CLIPTextModelWithProjection`` of transformers, or
            any module alike.
        projector: phi, embeddings (n, d) to token space (n, h).
        tokenizer: of transformers, or alike: called with texts, and has ``add_tokens``, ``convert_tokens_to_ids`` and
            ``eos_token_id``. A copy learns the pseudo-token.
        template: of composed queries, with the pseudo-token and ``{}`` for the condition; what stands before and with
            the pseudo-token is the query without a condition.
        pseudo_token: its name in the template.
        placeholder_id: a known id that the encoder sees in its place; below the end-of-text id, at which CLIP pools.
        max_length: tokens per text.
        temperature: of the loss.
        symmetric: the official loss, see ``TargetAnchoredContrastive``.
        noise_scale: of the stand-in for an image, see ``noisy_projection``.
        refined: train on the refined batch; False on composed queries and their targets alone.
        freeze_targets: targets come from the anchor; False, from the trained encoder with gradient, is an ablation.
        mask_duplicates: equal captions of a batch are no negatives of one another.
        lr: of AdamW.
        weight_decay: of AdamW.
        seed: of noise and batches.

    Raises:
        ValueError: for a template without its two places, or a placeholder that the encoder cannot take.

    Example:
        ``trainer = RTDTrainer(clip_text_encoder, phi, clip_tokenizer); trainer.fit(references, conditions, targets)``

        >>> RTDTrainer(nn.Linear(1, 1), nn.Identity(), None, template="a photo of [$]")
        Traceback (most recent call last):
        ValueError: template must hold [$] once and {} after it: got 'a photo of [$]'.
    """

    def __init__(
        self,
        text_encoder: nn.Module,
        projector: nn.Module,
        tokenizer: Any,
        *,
        template: str = "a photo of [$] that {}",
        pseudo_token: str = "[$]",
        placeholder_id: int = 259,
        max_length: int = 77,
        temperature: float = 0.07,
        symmetric: bool = True,
        noise_scale: float = 0.5,
        refined: bool = True,
        freeze_targets: bool = True,
        mask_duplicates: bool = True,
        lr: float = 1e-5,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        checks.require(
            template.count(pseudo_token) == 1 and "{}" in template.partition(pseudo_token)[2],
            f"template must hold {pseudo_token} once and {{}} after it: got {template!r}.",
        )
        checks.at_least("noise_scale", noise_scale, 0)
        self.template, self.pseudo_token, self.max_length = template, pseudo_token, max_length
        self.noise_scale, self.refined = noise_scale, refined
        self.freeze_targets, self.mask_duplicates = freeze_targets, mask_duplicates
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.add_tokens([pseudo_token], special_tokens=True)
        self.placeholder_id = placeholder_id
        self.text_encoder, self.projector = text_encoder, projector
        known = len(self._embedding(text_encoder).weight)
        checks.between("placeholder_id", placeholder_id, 0, known - 1)
        eos = self.tokenizer.eos_token_id
        checks.require(
            eos is None or placeholder_id < eos,
            f"placeholder_id must be below the end-of-text id {eos}, where the encoder pools: got {placeholder_id}.",
        )
        self.anchor = copy.deepcopy(text_encoder).eval().requires_grad_(False)
        self.loss_function = TargetAnchoredContrastive(temperature=temperature, symmetric=symmetric)
        self.optimizer = torch.optim.AdamW(text_encoder.parameters(), lr=lr, weight_decay=weight_decay)
        self.generator = torch_generator(child_seed(seed, "rtd noise"), self._device())
        self._order = np.random.default_rng(child_seed(seed, "rtd batches"))

    def compose(self, pseudo: Tensor, conditions: Sequence[str] | None = None) -> Tensor:
        """Queries of the trained encoder from pseudo-tokens: of images (``projector(image_encoder(x))``) or of texts.

        Args:
            pseudo: (n, h) float.
            conditions: n texts; None for the query without a condition.

        Returns:
            (n, d) float.

        Raises:
            ValueError: for another number of conditions, or pseudo-tokens of another width than the encoder's.
        """
        plain = self.template.partition(self.pseudo_token)[0] + self.pseudo_token
        if conditions is None:
            return self._encode(self.text_encoder, [plain] * len(pseudo), pseudo)
        checks.same_length("conditions", conditions, "pseudo", pseudo)
        return self._encode(self.text_encoder, [self.template.format(_clean(c)) for c in conditions], pseudo)

    def loss(self, references: Sequence[str], conditions: Sequence[str], targets: Sequence[str]) -> Tensor:
        """The loss of a batch of triplets.

        Args:
            references: n captions.
            conditions: n texts that say what changes.
            targets: n captions after the change.

        Returns:
            scalar; its gradient reaches the trained encoder alone.

        Raises:
            ValueError: for lists of different lengths, or none.
        """
        checks.require(len(references) > 0, "references must hold at least one triplet: got none.")
        checks.same_length("conditions", conditions, "references", references)
        checks.same_length("targets", targets, "references", references)
        captions = [[_clean(text) for text in side] for side in (targets, references)]
        with torch.no_grad():
            z_r = self._encode(self.anchor, captions[1])
        pseudo = noisy_projection(z_r, self.projector, noise_scale=self.noise_scale, generator=self.generator)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_targets):
            judge = self.anchor if self.freeze_targets else self.text_encoder
            z_t = self._encode(judge, captions[0])
            z_r = self._encode(judge, captions[1]) if self.refined and not self.freeze_targets else z_r
        queries, wanted, asked = self.compose(pseudo, conditions), z_t, captions[0]
        if self.refined:
            queries, wanted = refined_batch(queries, self.compose(pseudo), z_t, z_r)
            asked = captions[0] + captions[1]
        ids = None
        if self.mask_duplicates:
            number = {text: i for i, text in enumerate(dict.fromkeys(asked))}
            ids = torch.tensor([number[text] for text in asked], device=queries.device)
        loss: Tensor = self.loss_function(queries, wanted, target_ids=ids)
        return loss

    def step(self, references: Sequence[str], conditions: Sequence[str], targets: Sequence[str]) -> float:
        """One step of AdamW on a batch of triplets.

        Args:
            references: n captions.
            conditions: n texts.
            targets: n captions.

        Returns:
            the loss before the step.
        """
        loss = self.loss(references, conditions, targets)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def fit(
        self,
        references: Sequence[str],
        conditions: Sequence[str],
        targets: Sequence[str],
        *,
        steps: int = 2000,
        batch_size: int = 128,
    ) -> list[float]:
        """Train on random batches of triplets, each triplet once before any comes again.

        Args:
            references: n captions.
            conditions: n texts.
            targets: n captions.
            steps: how many batches.
            batch_size: triplets per batch; fewer triplets make one batch.

        Returns:
            the loss of every step.

        Raises:
            ValueError: for lists of different lengths, none, or sizes below 1.
        """
        checks.at_least("batch_size", batch_size, 1)
        checks.at_least("steps", steps, 0)
        checks.require(len(references) > 0, "references must hold at least one triplet: got none.")
        losses: list[float] = []
        while len(losses) < steps:
            order = self._order.permutation(len(references))
            full = max(1, len(order) // batch_size)
            for rows in np.array_split(order[: full * batch_size], full)[: steps - len(losses)]:
                losses.append(self.step(*([side[i] for i in rows] for side in (references, conditions, targets))))
        return losses

    def _encode(self, encoder: nn.Module, texts: Sequence[str], pseudo: Tensor | None = None) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"].to(self._device()), tokens["attention_mask"].to(self._device())
        if pseudo is None:
            return _embeddings(encoder(input_ids=ids, attention_mask=mask))
        own = self.tokenizer.convert_tokens_to_ids(self.pseudo_token)

        def inject(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return inject_pseudo_tokens(ids, output, pseudo, own)

        hook = self._embedding(encoder).register_forward_hook(inject)
        try:
            seen = ids.masked_fill(ids == own, self.placeholder_id)
            return _embeddings(encoder(input_ids=seen, attention_mask=mask))
        finally:
            hook.remove()

    def _embedding(self, encoder: Any) -> Any:
        return encoder.get_input_embeddings()

    def _device(self) -> torch.device:
        device: torch.device = self._embedding(self.text_encoder).weight.device
        return device


def _clean(text: str) -> str:
    return text.lower().replace("$", "").strip()


def _embeddings(out: Any) -> Tensor:
    found: Tensor = out if isinstance(out, Tensor) else out.text_embeds
    return found
