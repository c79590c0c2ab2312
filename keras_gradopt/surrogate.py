"""Surrogate: what a Gaussian process makes of losses seen in the unit box, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
from scipy.stats import qmc

# In units of the box' side, of the losses' standard deviation and of its square.
_LENGTHS, _HEIGHTS, _NOISES = (5e-3, 1e2), (1e-2, 1e2), (1e-8, 1.0)
# Mean and deviation of the logarithm of the noise: where few points cannot tell noise from a rugged
# loss, it is taken for the latter, and the best point for the best.
_NOISE = (-8.0, 3.0)
# Candidates of one maximisation, in halves: all over the box, and around the best point.
_CANDIDATES = 1024
_REFINED = 3
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


class Surrogate:
    r"""A Gaussian process through losses at some points, whose scale follows from them.

    Its covariance is a Matérn kernel with $\nu = 5/2$, a length for each dimension, a height and
    noise, over losses scaled to mean 0 and variance 1. The parameters maximise their posterior
    density, from two starts: scikit-learn has the likelihood, and the prior of the lengths
    $\ell \sim \mathrm{LogNormal}(\sqrt 2 + \frac12 \ln d, \sqrt 3)$ keeps few points from claiming
    that a dimension does not matter. Fitting takes $O(n^3 + n^2 d)$ for each of some dozen trials.

    Args:
        points: Shape (n, d), in the unit box; at least one.
        losses: Shape (n,), finite, possibly noisy.
        seed: Of the second start.

    Attributes:
        best: Position of the point with the lowest mean, the noise taken off.

    References:
        Rasmussen, Williams. Gaussian Processes for Machine Learning. 2006, Algorithm 2.1.
        Hvarfner, Hellsten, Nardi. Vanilla Bayesian Optimization Performs Great in High Dimensions.
        ICML 2024, section 5: the prior.
    """

    def __init__(self, points: np.ndarray, losses: np.ndarray, seed: Any = 0) -> None:
        self._points = np.asarray(points, "float64")
        losses = np.asarray(losses, "float64")
        self._centre = float(losses.mean())
        self._scale = float(losses.std()) or 1.0
        self._targets = (losses - self._centre) / self._scale
        self._kernel = _fitted_kernel(self._points, self._targets, seed)
        self._condition()
        self.best = int(np.argmin(self._posterior(self._points)[0]))

    def _condition(self) -> None:
        self._process = _process(self._kernel).fit(self._points, self._targets)
        self._height = float(self._kernel.k1.k1.constant_value)
        self._lengths = np.broadcast_to(self._kernel.k1.k2.length_scale, self._points.shape[1:])

    # ------------------------------------------------------------------ what it believes

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the loss without its noise, at points of shape (m, d)."""
        mean, variance = self._posterior(np.asarray(points, "float64"))
        return self._centre + self._scale * mean, self._scale * np.sqrt(variance)

    def expected_improvement(self, points: np.ndarray) -> np.ndarray:
        r"""$E[\max(\mu^* - f(x), 0)]$, where $\mu^*$ is the lowest mean at an observed point.

        Args:
            points: Shape (m, d).

        References:
            Jones, Schonlau, Welch. Efficient Global Optimization of Expensive Black-Box Functions.
            Journal of Global Optimization 1998, equation (15).
        """
        return self._scale * np.exp(self._log_improvement(np.asarray(points, "float64")))

    def _posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covariance, _ = self._covariance(x)
        half = scipy.linalg.solve_triangular(self._process.L_, covariance.T, lower=True)
        variance = self._height - np.einsum("nm,nm->m", half, half)
        return covariance @ self._process.alpha_, np.maximum(variance, 1e-12)

    def _covariance(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Covariances with the observed points, (m, n), and minus their slopes per distance."""
        away = (x[:, None] - self._points) / self._lengths
        r = math.sqrt(5.0) * np.sqrt(np.einsum("mnd,mnd->mn", away, away))
        decay = self._height * np.exp(-r)
        return decay * (1 + r + r * r / 3), decay * (1 + r) * (5 / 3)

    def _log_improvement(self, x: np.ndarray) -> np.ndarray:
        mean, variance = self._posterior(x)
        deviation = np.sqrt(variance)
        return np.log(deviation) + log_improvement((self._lowest() - mean) / deviation)

    def _lowest(self) -> float:
        return float(self._posterior(self._points[self.best][None])[0][0])

    def _loss_and_slope(self, x: np.ndarray, lowest: float) -> tuple[float, np.ndarray]:
        """Minus the logarithm of the expected improvement at one point, and its gradient."""
        covariance, slope = self._covariance(x[None])
        # d k(x, x_n) / d x, shape (n, d).
        gradient = -slope[0][:, None] * (x - self._points) / self._lengths**2
        weights = scipy.linalg.cho_solve((self._process.L_, True), covariance[0])
        variance = max(self._height - float(weights @ covariance[0]), 1e-12)
        deviation = math.sqrt(variance)
        d_mean = self._process.alpha_ @ gradient
        d_deviation = -(weights @ gradient) / deviation
        z = (lowest - float(covariance[0] @ self._process.alpha_)) / deviation
        value = math.log(deviation) + float(log_improvement(np.array(z)))
        # h'(z) = Phi(z), for h(z) = phi(z) + z Phi(z): E' = Phi (-mean') + phi deviation'.
        share = float(np.exp(scipy.special.log_ndtr(z) + math.log(deviation) - value))
        density = math.exp(min(-0.5 * z * z - _LOG_ROOT_TWO_PI + math.log(deviation) - value, 50.0))
        return -value, (share * d_mean - density * d_deviation) / deviation

    # ------------------------------------------------------------------ what to look at next

    def propose(self, count: int, seed: Any = 0) -> np.ndarray:
        """Points of the largest expected improvement.

        After each of them the process takes its own mean for the loss there, with the parameters
        as they are, and looks for the next.

        Args:
            count: How many, at least 1.
            seed: Of the candidates.

        Returns:
            Shape (count, d).

        References:
            Ginsbourger, Le Riche, Carraro. Kriging Is Well-Suited to Parallelize Optimization.
            2010, section 3: the kriging believer.
            Ament, Daulton, Eriksson, Balandat, Bakshy. Unexpected Improvements to Expected
            Improvement for Bayesian Optimization. NeurIPS 2023, equation (9): its logarithm.
        """
        points, targets, best = self._points, self._targets, self.best
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            found.append(self._maximiser(rng))
            if len(found) < count:
                believed = self._posterior(found[-1][None])[0]
                self._points = np.concatenate([self._points, found[-1][None]])
                self._targets = np.concatenate([self._targets, believed])
                self._condition()
        if count > 1:
            self._points, self._targets, self.best = points, targets, best
            self._condition()
        return np.stack(found)

    def _maximiser(self, rng: np.random.Generator) -> np.ndarray:
        dimensions = self._points.shape[1]
        half = _CANDIDATES // 2
        spread = qmc.Sobol(dimensions, seed=rng).random(half)
        # Far and near, for the maximum is narrow where much is known.
        width = 10.0 ** rng.uniform(-3, -0.5, size=(half, 1))
        near = self._points[self.best] + width * rng.normal(size=(half, dimensions))
        candidates = np.clip(np.concatenate([spread, near]), 0.0, 1.0)
        values = self._log_improvement(candidates)
        order = np.argsort(-values, kind="stable")[:_REFINED]
        best, point = values[order[0]], candidates[order[0]]
        lowest = self._lowest()
        for start in candidates[order]:
            refined = scipy.optimize.minimize(
                self._loss_and_slope,
                start,
                args=(lowest,),
                jac=True,
                method="L-BFGS-B",
                bounds=[(0.0, 1.0)] * dimensions,
                options={"maxiter": 50},
            )
            if -refined.fun > best:
                best, point = -refined.fun, refined.x
        return point


def log_improvement(z: np.ndarray) -> np.ndarray:
    r"""$\ln(\varphi(z) + z \Phi(z))$, of which none is lost where the improvement is tiny.

    Args:
        z: How many standard deviations the mean lies below the lowest.
    """
    z = np.asarray(z, "float64")
    high = np.maximum(z, -1.0)
    above = np.exp(-0.5 * high**2 - _LOG_ROOT_TWO_PI) + high * scipy.special.ndtr(high)
    low = np.minimum(z, -1.0)
    # 1 - |z| sqrt(pi / 2) erfcx(|z| / sqrt 2) is 1 / z^2 to first order, lost below about -1e5.
    mills = -low * math.sqrt(math.pi / 2) * scipy.special.erfcx(-low / math.sqrt(2))
    rest = np.where(low > -1e3, np.log(np.maximum(1 - mills, 1e-300)), -2 * np.log(-low))
    return np.where(z > -1.0, np.log(above), -0.5 * low**2 - _LOG_ROOT_TWO_PI + rest)


def design(count: int, dimensions: int, seed: int) -> np.ndarray:
    """First points: the centre of the unit box, then a scrambled Sobol sequence.

    Args:
        count: How many, at least 1.
        dimensions: Of the box.
        seed: Of the scrambling.

    Returns:
        Shape (count, dimensions); the first points of a longer design.
    """
    centre = np.full((1, dimensions), 0.5)
    # Drawn one by one: what is no power of 2 would be warned of.
    sequence = qmc.Sobol(dimensions, seed=np.random.default_rng(seed))
    return np.concatenate([centre, *(sequence.random(1) for _ in range(count - 1))])


def _process(kernel: Any) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel, alpha=1e-10, optimizer=None)


def _fitted_kernel(points: np.ndarray, targets: np.ndarray, seed: Any) -> Any:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    dimensions = points.shape[1]
    long = math.sqrt(2) + 0.5 * math.log(dimensions)
    usual = math.exp(long - 3)
    centres = np.array([long] * dimensions + [_NOISE[0]])
    widths = np.array([math.sqrt(3)] * dimensions + [_NOISE[1]])
    kernel = ConstantKernel(1.0, _HEIGHTS) * Matern(
        np.full(dimensions, usual), _LENGTHS, nu=2.5
    ) + WhiteKernel(1e-4, _NOISES)
    process = _process(kernel).fit(points, targets)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = process.log_marginal_likelihood(
            theta, eval_gradient=True, clone_kernel=False
        )
        # The height's has no prior.
        away = (theta[1:] - centres) / widths
        gradient[1:] -= away / widths
        value -= 0.5 * float(away @ away)
        return -value, -gradient

    rng = np.random.default_rng(seed)
    other = kernel.theta.copy()
    other[1:-1] = np.log(usual) + rng.normal(size=dimensions)
    other[-1] = math.log(10.0 ** rng.uniform(-6, -1))
    fits = [
        scipy.optimize.minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=kernel.bounds,
            options={"maxiter": 50, "ftol": 1e-6},
        )
        for start in (kernel.theta, other)
    ]
    best = min(fits, key=lambda fit: fit.fun)
    return kernel.clone_with_theta(best.x)
