"""The multivariate Student's t distribution against SciPy."""

import numpy as np
import pytest
import torch
from scipy import stats

from amortvi.errors import FamilyError, OptionError
from amortvi.families import StudentT, marginals

DOUBLE = torch.float64


def posterior():
    torch.manual_seed(0)
    family = StudentT(4).setup(3, 2).double()
    return family.distribution(torch.randn(2, family.num_parameters, dtype=DOUBLE))


def test_density_entropy_and_quantiles_equal_those_of_scipy() -> None:
    q = posterior()
    z = torch.randn(5, 2, 3, dtype=DOUBLE)
    for row in range(2):
        shape = q.gaussian.covariance_matrix[row].numpy()
        expected = stats.multivariate_t(q.loc[row].numpy(), shape, df=4)
        np.testing.assert_allclose(q.log_prob(z)[:, row], expected.logpdf(z[:, row].numpy()))
        np.testing.assert_allclose(q.entropy()[row], expected.entropy(), rtol=1e-6)
        quantile = marginals(q).icdf(torch.tensor(0.9, dtype=DOUBLE))[row]
        scale = np.sqrt(np.diag(shape))
        np.testing.assert_allclose(quantile, stats.t(4, q.loc[row].numpy(), scale).ppf(0.9))


def test_options() -> None:
    with pytest.raises(OptionError, match="degrees_of_freedom must be an integer of at least 3; got 2"):
        StudentT(2)
    with pytest.raises(FamilyError, match="must be a Gaussian family"):
        StudentT(base="mixture").setup(2, 3)
