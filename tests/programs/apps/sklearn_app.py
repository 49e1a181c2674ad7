"""scikit-learn: a search over a grid, with estimators that log, in joblib's workers."""

from __future__ import annotations

import logging

import numpy as np
import usual
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV

log = logging.getLogger("model")


class Constant(ClassifierMixin, BaseEstimator):
    """Predicts one class, and says so."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def fit(self, X, y):
        """Log."""
        if not logging.getLogger().handlers:
            usual.configure()
        log.info("fitting %d to %d rows", self.value, len(X))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        """Return the value for each row."""
        if self.value > 1:
            log.warning("value %d is no class", self.value)
        return np.full(len(X), self.value)


if __name__ == "__main__":
    usual.configure()
    search = GridSearchCV(Constant(), {"value": [0, 1, 2]}, cv=3, n_jobs=2)
    search.fit(np.zeros((12, 2)), np.array([0, 1] * 6))
    log.info("best: %s", search.best_params_)
