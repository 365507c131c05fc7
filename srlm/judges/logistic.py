"""Logistic regression with a ridge, many fits at once: Bradley-Terry strengths, length effects and their bootstrap.

A bootstrap interval needs thousands of small fits, and an optimiser such as scipy.optimize computes one at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]


def logistic_fits(features: Array, targets: Array, weights: Array, ridge: ArrayLike) -> Array:
    """Return the coefficients b that minimise the penalised log-loss, one fit for each row of `weights`:

        sum_p w_p [log(1 + exp(eta_p)) - y_p eta_p] + sum_f ridge_f / 2 * b_f^2,  eta = features @ b.

    Newton's method with halved steps. The loss must have a finite minimum: a ridge, or targets that no plane separates.

    Parameters
    ----------
    features : shape (P, F)
    targets : shape (P,), 0 to 1
    weights : shape (R, P), not negative
    ridge : shape (F,), not negative

    Returns
    -------
    shape (R, F)
    """
    penalty = np.asarray(ridge, dtype=np.float64)
    products = (features[:, :, None] * features[:, None, :]).reshape(len(features), len(penalty) ** 2)
    fits = np.zeros((len(weights), len(penalty)))

    def loss(fits: Array) -> Array:
        eta = fits @ features.T
        total: Array = (weights * (np.logaddexp(0, eta) - targets * eta)).sum(axis=1) + fits**2 @ penalty / 2
        return total

    for _ in range(100):
        p = expit(fits @ features.T)
        slope = (weights * (p - targets)) @ features + penalty * fits
        curvature = ((weights * p * (1 - p)) @ products).reshape(-1, len(penalty), len(penalty)) + np.diag(penalty)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        before, gain = loss(fits), (step * slope).sum(axis=1)
        for _ in range(40):
            far = loss(fits - step) > before - 1e-4 * gain + 1e-12 * np.abs(before)
            if not far.any():
                break
            step, gain = np.where(far[:, None], step / 2, step), np.where(far, gain / 2, gain)
        fits = fits - step
        if np.abs(step).max(initial=0) < 1e-8:  # convergence is quadratic: the next step would be rounding noise
            break
    return fits
