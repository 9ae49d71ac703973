"""How lifespan synthesis is measured; the networks that tell age and identity are given.

Distances between sets of features (FID, KID), verification, and errors of the estimated age. NumPy,
on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FID of two sets of features [N, D], [M, D]: of the normal distributions fitted to them.

    Covariances with N - 1. The trace of the product's square root comes from eigenvalues of a
    symmetric matrix, so that it is real by construction.

    Raises:
      ValueError: fewer than two rows in a set.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet_distance: sets of {len(a)} and {len(b)}, at least 2 are needed")
    shift = a.mean(axis=0) - b.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second @ root)
    cross = np.sum(np.sqrt(np.maximum(product, 0)))
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * cross)


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """KID of two sets of features [N, D], [M, D]: unbiased MMD^2, kernel (x.y / D + 1)^3."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(f"kid: sets of {n} and {m}, at least 2 are needed")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    own_a, own_b = kernel(a, a), kernel(b, b)
    within = (own_a.sum() - np.trace(own_a)) / (n * (n - 1))
    within += (own_b.sum() - np.trace(own_b)) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())


def verification_rate(cosines: np.ndarray, threshold: float) -> float:
    """Percentage of pairs whose similarity [N] is above the threshold."""
    return float(100.0 * np.mean(np.asarray(cosines) > threshold))


def age_errors(
    predicted: np.ndarray, target: np.ndarray, bounds: Sequence[tuple[float, float]]
) -> dict[str, float]:
    """Errors of estimated ages.

    Args:
      predicted: [N] years. target: [N] int, the class each was asked for.
      bounds: (lowest, highest) age of each class.

    Returns:
      "age_error": mean over classes of the distance between the mean prediction and the class's
      centre; "in_class": percentage of predictions within the bounds of their class.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target)
    distances = [
        abs(predicted[target == index].mean() - (low + high) / 2)
        for index, (low, high) in enumerate(bounds)
        if np.any(target == index)
    ]
    limits = np.asarray(bounds, np.float64)[target]
    inside = (predicted >= limits[:, 0]) & (predicted <= limits[:, 1])
    return {"age_error": float(np.mean(distances)), "in_class": float(100.0 * inside.mean())}
