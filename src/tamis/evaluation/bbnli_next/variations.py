"""Variations of a text: one word in turn is masked and filled again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tamis import checks

FillMask = Callable[[str, str], Sequence[str]]
"""Takes a text in which ``[MASK]`` stands for one word, and that word; gives words for its place, best first."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_FILES = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True)
class Variation:
    """A text with one word exchanged.

    Args:
        text: the new text.
        position: of the word, counted in words.
        original: the word that stood there.
        replacement: the word that stands there now.
    """

    text: str
    position: int
    original: str
    replacement: str


def lexical_variations(
    text: str,
    fill_mask: FillMask,
    positions: Sequence[int] | str = "all",
    k: int = 10,
    keep: Callable[[str, str], bool] | None = None,
) -> list[Variation]:
    """Variations of a text, one word at a time.

    The proposal step of arXiv:2305.12620. A fill can turn the label around (an antonym, say): check labels by ``keep``
    and by people before an item counts.

    Args:
        text: the text.
        fill_mask: words for a masked place; a masked language model behind a function, or ``WordNetFill``.
        positions: which words, counted from 0, or "all".
        k: fills per word, those that are another word than the original.
        keep: called with the text and its variation; False leaves the variation out (grammar, meaning, part of speech).

    Returns:
        the variations, each text once, by position and then as ranked by ``fill_mask``.

    Raises:
        ValueError: k below 1, or a position that the text does not have.

    Example:
        >>> fills = {"sat": ["sat", "stood", "lay"]}
        >>> [v.text for v in lexical_variations("The cat sat.", lambda masked, word: fills.get(word, []), k=1)]
        ['The cat stood.']
    """
    checks.at_least("k", k, 1)
    words = list(_WORD.finditer(text))
    chosen = range(len(words)) if isinstance(positions, str) else positions
    if isinstance(positions, str):
        checks.one_of("positions", positions, ("all",))
    found: list[Variation] = []
    seen = {text}
    for position in chosen:
        checks.require(
            0 <= position < len(words), f"positions must lie in 0..{len(words) - 1}, the words: got {position}."
        )
        at = words[position]
        before, word, after = text[: at.start()], at[0], text[at.end() :]
        others = (fill for fill in fill_mask(f"{before}[MASK]{after}", word) if fill.casefold() != word.casefold())
        for fill in list(dict.fromkeys(others))[:k]:
            new = f"{before}{fill.capitalize() if word[0].isupper() else fill}{after}"
            if new not in seen and (keep is None or keep(text, new)):
                seen.add(new)
                found.append(Variation(new, position, word, fill))
    return found


class WordNetFill:
    """Fills from a folder of WordNet: synonyms first, then words under the same parent, as in its senses' order.

    Only words in their base form are known, and the context is not looked at, so half of the fills may not fit: filter
    them. The folder holds ``data.noun`` and so on, as WordNet 3.0 and 3.1 bring them; nothing is fetched.

    Args:
        folder: of the database files.

    Raises:
        FileNotFoundError: when there is no such folder or file.

    Example:
        >>> WordNetFill("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: no WordNet in no/such/folder: it must hold data.noun, data.verb, data.adj, data.adv
    """

    def __init__(self, folder: str | Path) -> None:
        self._lemmas: dict[str, list[str]] = {}
        self._parents: dict[str, list[str]] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._senses: dict[str, list[str]] = defaultdict(list)
        for part in _FILES:
            path = Path(folder) / f"data.{part}"
            if not path.is_file():
                wanted = ", ".join(f"data.{name}" for name in _FILES)
                raise FileNotFoundError(f"no WordNet in {folder}: it must hold {wanted}")
            self._read(path, part)

    def _read(self, path: Path, part: str) -> None:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") or not line.strip():
                continue
            cells = line.split("|", 1)[0].split()
            key, count = f"{part}.{cells[0]}", int(cells[3], 16)
            lemmas = [cells[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(count)]
            self._lemmas[key] = lemmas
            for lemma in lemmas:
                self._senses[lemma.casefold()].append(key)
            pointers = cells[5 + 2 * count :]
            above = [f"{part}.{pointers[i + 1]}" for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
            above = above[: int(cells[4 + 2 * count])]
            self._parents[key] = above
            for parent in above:
                self._children[parent].append(key)

    def __call__(self, masked: str, word: str) -> list[str]:
        """Words for the place of a word.

        Args:
            masked: the text with ``[MASK]``; not looked at.
            word: that stood there.

        Returns:
            words, each once, without the word itself.
        """
        senses = self._senses.get(word.casefold(), [])
        sisters = [child for sense in senses for parent in self._parents[sense] for child in self._children[parent]]
        ranked = [lemma for sense in [*senses, *sisters] for lemma in self._lemmas[sense]]
        return [lemma for lemma in dict.fromkeys(ranked) if lemma.casefold() != word.casefold()]
