"""SMOTE: more minority rows, each on the way from one minority row to one of its nearest minority neighbours.

Repeated rows make a learner draw tight boxes around them; rows in between make it draw one larger region. ``SMOTE`` is
the plain method, ``SMOTENC`` handles columns of categories, ``BorderlineSMOTE`` starts only from rows near other
classes, and ``ADASYN`` makes more rows where other classes are nearer. All are drop-ins for the classes of
imbalanced-learn, with the same rows for the same seed, and in a fraction of the time from some ten columns on.
``smote_interpolate`` is the bare formula, and ``provenance_`` says of every new row where it came from.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.smote.interpolation import smote_interpolate as smote_interpolate
from tamis.subsets.smote.mixed import SMOTENC as SMOTENC
from tamis.subsets.smote.samplers import ADASYN as ADASYN
from tamis.subsets.smote.samplers import SMOTE as SMOTE
from tamis.subsets.smote.samplers import BorderlineSMOTE as BorderlineSMOTE
from tamis.subsets.smote.samplers import adasyn_counts as adasyn_counts

METHOD = Method(
    title="SMOTE: Synthetic Minority Over-sampling Technique",
    paper="doi:10.1613/jair.953",
    year=2002,
    claim="A decision tree ranks better after SMOTE than after repeating minority rows.",
    peers=("imblearn.over_sampling.SMOTE", "imblearn.over_sampling.ADASYN"),
    deviations=(
        "one step for all features, along the segment, as the text says; per_feature=True is the pseudo-code",
        "pairs of row and neighbour are drawn uniformly, as imbalanced-learn does; base='balanced' is the paper's",
        "a row is never its own neighbour, also where copies of it are as near; equal distances go to the lower index",
        "normalize=True, for embeddings of length one",
    ),
)
