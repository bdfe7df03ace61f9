"""Concept frequency: how often each test concept occurs in the training data, and how performance grows with it.

Performance is about linear in the logarithm of the frequency, so rare concepts ask for exponentially more data. An
inverted index counts concepts in captions, tags count them in images, both together count where the two agree
(``index``). ``loglinear_fit`` fits performance on bins and, as ten bins look better than the data, on concepts too
(``fit``). What is rare is listed, and images for it are freed of near-copies and balanced (``rare``).
"""

from __future__ import annotations

from tamis.evaluation.concept_frequency.fit import LogLinearFit as LogLinearFit
from tamis.evaluation.concept_frequency.fit import loglinear_fit as loglinear_fit
from tamis.evaluation.concept_frequency.index import ConceptIndex as ConceptIndex
from tamis.evaluation.concept_frequency.index import Misalignment as Misalignment
from tamis.evaluation.concept_frequency.index import integrated_frequency as integrated_frequency
from tamis.evaluation.concept_frequency.index import misalignment as misalignment
from tamis.evaluation.concept_frequency.rare import class_balance as class_balance
from tamis.evaluation.concept_frequency.rare import long_tail as long_tail
from tamis.evaluation.concept_frequency.rare import phash as phash
from tamis.evaluation.concept_frequency.rare import phash_dedup as phash_dedup
from tamis.method import Method

METHOD = Method(
    title='No "Zero-Shot" Without Exponential Data: Pretraining Concept Frequency Determines Multimodal Model '
    "Performance",
    paper="arXiv:2404.04125",
    year=2024,
    code="bethgelab/frequency_determines_performance",
    claim="Accuracy follows the logarithm of a concept's frequency, not the frequency; single concepts scatter widely.",
    peers=("imagededup", "spacy"),
    deviations=(
        "postings are sets; the official code stores the first hit of each noun twice and counts one too many",
        "significance by permutation of concepts, and an unbinned fit with a bootstrap interval beside the binned one",
        "no tagger and no lemmatizer is shipped: both are callables or tables of the user's",
    ),
)
