"""Stationary representations: embeddings of successive models that stay interchangeable, without re-indexing.

A new model usually lays out its space anew, and a gallery embedded by the old one must be embedded again (backfilled).
Here every version is trained against one fixed classifier, whose class vectors are the corners of a regular simplex
with corners kept free for classes to come, so that versions agree on where a class lies (``simplex``). A contrastive
term to the old model's features brings single items together as well (``hoc``). A matrix of retrieval scores, queries
of one version against the gallery of another, says what was gained and where a backfill is needed (``compatibility``).
"""

from __future__ import annotations

from tamis.losses.stationary.compatibility import CompatibilityReport as CompatibilityReport
from tamis.losses.stationary.compatibility import average_accuracy as average_accuracy
from tamis.losses.stationary.compatibility import average_compatibility as average_compatibility
from tamis.losses.stationary.compatibility import compatibility_matrix as compatibility_matrix
from tamis.losses.stationary.compatibility import compatibility_report as compatibility_report
from tamis.losses.stationary.hoc import HOCLoss as HOCLoss
from tamis.losses.stationary.hoc import hoc_loss as hoc_loss
from tamis.losses.stationary.simplex import DSimplexClassifier as DSimplexClassifier
from tamis.losses.stationary.simplex import d_simplex as d_simplex
from tamis.method import Method

METHOD = Method(
    title="Stationary Representations: Optimally Approximating Compatibility and Implications for Improved Model "
    "Replacements",
    paper="arXiv:2405.02581",
    year=2024,
    code="miccunifi/iamcl2r",
    claim="Versions trained on one simplex search each other's galleries; with free classifiers they cannot.",
    peers=(),
    deviations=(
        'same-class pairs leave the sum of the contrastive term; same_class="zero_logit" counts each as exp(0), as the '
        "official code does",
        "a row without another class in the batch counts as 0, with a warning",
        "label i takes corner i unless class_map says otherwise; the official code fills corners from the end",
        "the matrix is of recall@1 against single items; templates=True takes class means, as the official code does",
    ),
)
