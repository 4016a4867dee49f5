"""Labels of which some are missing: a classifier ``q(y | x)`` beside ``q(z | x, y)``, trained together (Kingma et al., 2014)."""

from amortvi.posterior.labels.choice import LabelChoice, Labels, resolve_labels
from amortvi.posterior.labels.classifier import Classifier
from amortvi.posterior.labels.missing import LabelArgument

__all__ = ["Classifier", "LabelArgument", "LabelChoice", "Labels", "resolve_labels"]
