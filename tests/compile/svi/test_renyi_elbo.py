"""Renyi's bound agrees with its formula for every observation, lies below the log evidence, and is correct for subsamples."""

import math

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

import amortvi as avi
from amortvi.compile.svi import RenyiELBO
from tests.compile.svi.problems import assert_same, fit
from tests.exact import linear_gaussian

ROWS = 12
COPIES = 50
"""How often the data set repeats each observation in statistical tests: one run of the model then gives many bounds."""
EXACT = linear_gaussian(latents=2, features=3)
X = EXACT.simulate(ROWS, seed=0)
EVIDENCE = COPIES * float(EXACT.log_evidence(X).sum())
SUBSAMPLE = torch.tensor([3, 8, 1])
PRIOR = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
# The guide is wider than the posterior.
MEAN, WIDTH = EXACT.posterior(X).mean, 1.4 * torch.linalg.inv(EXACT.precision()).diagonal().sqrt()


def likelihood(z):
    return dist.Normal(z @ EXACT.W.mT + EXACT.bias, EXACT.scale).to_event(1)


class Linear:
    """The linear-Gaussian model of a subsample, and its guide."""

    def __init__(self, copies=1):
        self.size = ROWS * copies

    def model(self, rows):
        with pyro.plate("data", self.size, subsample=rows):
            pyro.sample("x", likelihood(pyro.sample("z", PRIOR)), obs=X[rows % ROWS])

    def guide(self, rows):
        width = pyro.param("width", WIDTH.clone)
        with pyro.plate("data", self.size, subsample=rows):
            pyro.sample("z", dist.Normal(MEAN[rows % ROWS], width).to_event(1))


LINEAR = Linear()


def particles(count, alpha=0.0, kind=RenyiELBO):
    return kind(alpha=alpha, num_particles=count, vectorize_particles=True, max_plate_nesting=1)


def estimate(loss, size=ROWS * COPIES, runs=30):
    """Return the mean estimate of the bound of the data set from random subsamples, and its standard error."""
    problem = Linear(COPIES)
    torch.manual_seed(0)
    rows = (torch.randperm(problem.size)[:size] for _ in range(runs))
    values = torch.tensor([-loss.loss(problem.model, problem.guide, each) for each in rows])
    return float(values.mean()), float(values.std() / math.sqrt(runs))


def test_the_bound_approaches_the_evidence_from_below():
    elbo, error = estimate(pyro.infer.Trace_ELBO(5, 1, vectorize_particles=True))
    bound = elbo
    for count in (2, 10, 100):
        previous, previous_error = bound, error
        bound, error = estimate(particles(count))
        assert bound - previous > 5 * math.hypot(error, previous_error)
        assert bound - EVIDENCE < 5 * error
    assert EVIDENCE - bound < 0.1 * (EVIDENCE - elbo)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 2.0])
def test_the_bound_does_not_depend_on_the_subsample(alpha):
    whole, whole_error = estimate(particles(5, alpha))
    part, part_error = estimate(particles(5, alpha), size=ROWS * COPIES // 10, runs=100)
    assert abs(part - whole) < 5 * math.hypot(part_error, whole_error)


def test_the_estimate_of_pyro_from_a_subsample_is_not_a_bound():
    """It depends on the subsample and exceeds the evidence by far more than chance; this is why SVI replaces it."""
    pyros = particles(5, kind=pyro.infer.RenyiELBO)
    whole, whole_error = estimate(pyros)
    part, part_error = estimate(pyros, size=ROWS * COPIES // 10, runs=100)
    assert part - whole > 10 * math.hypot(part_error, whole_error)
    assert part - EVIDENCE > 10 * part_error
    # Without a subsample the two agree.
    ours, ours_error = estimate(particles(5))
    assert abs(ours - whole) < 5 * math.hypot(ours_error, whole_error)


def formula(log_weights, alpha):
    """Return the sum over observations of the bound from log weights, ``(particles, observations)``."""
    powers = (1 - alpha) * log_weights
    return (powers.logsumexp(0) - math.log(len(powers))).sum() / (1 - alpha)


def expected_bound(z, q, alpha):
    log_weights = likelihood(z).log_prob(X[SUBSAMPLE]) + PRIOR.log_prob(z) - q.log_prob(z).sum(-1)
    return ROWS / 3 * formula(log_weights, alpha)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_bound_and_gradient_are_those_of_the_formula_with_the_same_draws(vectorize, alpha):
    loss = RenyiELBO(alpha, num_particles=4, vectorize_particles=vectorize, max_plate_nesting=1)
    torch.manual_seed(2)
    value = -loss.loss_and_grads(LINEAR.model, LINEAR.guide, SUBSAMPLE)
    torch.manual_seed(2)
    width = WIDTH.clone().requires_grad_()
    q = dist.Normal(MEAN[SUBSAMPLE], width)
    z = q.rsample((4,)) if vectorize else torch.stack([q.rsample() for _ in range(4)])
    bound = expected_bound(z, q, alpha)
    assert value == pytest.approx(bound.item(), rel=1e-6)
    bound.backward()
    torch.testing.assert_close(pyro.param("width").grad, -width.grad, rtol=1e-6, atol=1e-9)


def test_rows_in_a_sequential_plate_are_observations():
    def model(rows):
        for row in pyro.plate("data", ROWS, subsample=rows):
            pyro.sample(f"x_{row}", likelihood(pyro.sample(f"z_{row}", PRIOR)), obs=X[row])

    def guide(rows):
        for row in pyro.plate("data", ROWS, subsample=rows):
            pyro.sample(f"z_{row}", dist.Normal(MEAN[row], WIDTH).to_event(1))

    torch.manual_seed(2)
    value = -RenyiELBO(0.5, num_particles=4).loss(model, guide, SUBSAMPLE)
    torch.manual_seed(2)
    runs = [poutine.trace(guide).get_trace(SUBSAMPLE) for _ in range(4)]
    z = torch.stack([torch.stack([run.nodes[f"z_{row}"]["value"] for row in SUBSAMPLE]) for run in runs])
    expected = expected_bound(z, dist.Normal(MEAN[SUBSAMPLE], WIDTH), 0.5)
    assert value == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dims", [(-2, -1), (-1, -2)])
def test_sites_inside_a_nested_plate_and_outside_all_plates(dims):
    def inner():
        return pyro.plate("inner", 4, subsample=torch.tensor([0, 2]), dim=dims[1])

    def model(rows):
        pyro.factor("outside", torch.tensor(-2.5).double())
        with pyro.plate("data", ROWS, subsample=rows, dim=dims[0]):
            a = pyro.sample("a", dist.Normal(torch.tensor(0.0).double(), 1.0))
            with inner():
                b = pyro.sample("b", dist.Normal(a, 1.0))
                with poutine.scale(scale=0.7):
                    pyro.sample("y", dist.Normal(b, 1.0), obs=X[rows, :1] if dims[1] == -1 else X[rows, 0])

    def guide(rows):
        with pyro.plate("data", ROWS, subsample=rows, dim=dims[0]):
            pyro.sample("a", dist.Normal(torch.tensor(0.1).double(), 0.9))
            with inner():
                pyro.sample("b", dist.Normal(torch.tensor(0.2).double(), 1.1))

    torch.manual_seed(2)
    value = -RenyiELBO(num_particles=3, max_plate_nesting=2).loss(model, guide, SUBSAMPLE)
    torch.manual_seed(2)
    weights = torch.zeros(3, 3).double()
    for weight in weights:
        drawn = poutine.trace(guide).get_trace(SUBSAMPLE)
        scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(SUBSAMPLE)
        for sign, trace, names in ((1, scored, ("a", "b", "y")), (-1, drawn, ("a", "b"))):
            trace.compute_log_prob()
            for name in names:
                # Pyro's log probability contains the scales of both plates; that of the data plate is removed.
                log_prob = trace.nodes[name]["log_prob"] * 3 / ROWS
                weight += sign * (log_prob.flatten() if name == "a" else log_prob.sum(dims[1]).flatten())
    expected = ROWS / 3 * formula(weights, 0.0) - 2.5
    assert value == pytest.approx(expected.item(), rel=1e-6)


def test_latents_of_the_whole_data_set_have_the_bound_of_pyro():
    def model():
        z = pyro.sample("z", PRIOR)
        with pyro.plate("data", ROWS):
            pyro.sample("x", likelihood(z), obs=X)

    def guide():
        pyro.sample("z", dist.Normal(MEAN[0], 0.5).to_event(1))

    values = []
    for kind in (RenyiELBO, pyro.infer.RenyiELBO):
        torch.manual_seed(0)
        values.append(kind(0.3, num_particles=4).loss(model, guide))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_gradient_is_unbiased_if_latents_are_not_reparameterized(vectorize, alpha):
    """Of two particles for each of three observations, and an observed site outside the plate, all draws are enumerated."""
    x, level = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor(0.7).double()

    def model():
        with pyro.plate("rows", 3, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4).double()))
            pyro.sample("x", dist.Normal(2 * z - 1, 1), obs=x)
        pyro.sample("level", dist.Normal(z.sum(-1, keepdim=True), 1), obs=level)

    def guide():
        with pyro.plate("rows", 3, dim=-1):
            pyro.sample("z", dist.Bernoulli(pyro.param("p", lambda: torch.tensor([0.3, 0.6, 0.8]).double())))

    p = torch.tensor([0.3, 0.6, 0.8]).double().requires_grad_()
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6).reshape(-1, 2, 3).transpose(0, 1)
    log_q = dist.Bernoulli(p).log_prob(z)
    log_weights = dist.Bernoulli(torch.tensor(0.4).double()).log_prob(z) + dist.Normal(2 * z - 1, 1).log_prob(x) - log_q
    bounds = ((1 - alpha) * log_weights).logsumexp(0).sub(math.log(2)) / (1 - alpha)
    outside = dist.Normal(z.sum(-1), 1).log_prob(level).mean(0)
    expected = (log_q.sum((0, -1)).exp() * (bounds.sum(-1) + outside)).sum()
    expected.backward()

    loss = RenyiELBO(alpha, num_particles=2, vectorize_particles=vectorize, max_plate_nesting=1)
    torch.manual_seed(0)
    gradients, values = [], []
    for _ in range(1000):
        values.append(-loss.loss_and_grads(model, guide))
        gradients.append(-pyro.param("p").unconstrained().grad.clone())
        pyro.param("p").unconstrained().grad = None
    gradients, values = torch.stack(gradients), torch.tensor(values)
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - p.grad).abs() < 5 * error).all()
    assert abs(values.mean() - expected.item()) < 5 * values.std() / len(values) ** 0.5
    # Without the scores, the gradient is another one by far.
    assert (p.grad.abs() > 8 * error).any()


def test_svi_replaces_the_bound_of_pyro_and_keeps_its_options():
    pyros = pyro.infer.RenyiELBO(0.5, num_particles=3, max_plate_nesting=1, vectorize_particles=True)
    torch.manual_seed(0)
    expected = RenyiELBO(0.5, 3, 1, vectorize_particles=True).loss(LINEAR.model, LINEAR.guide, SUBSAMPLE)
    svi = avi.SVI(LINEAR.model, LINEAR.guide, pyro.optim.Adam({"lr": 0.01}), pyros, compile=False)
    for evaluate in (svi.evaluate_loss, svi.step):
        torch.manual_seed(0)
        assert evaluate(SUBSAMPLE) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("vectorize", [False, True])
def test_a_compiled_step_learns_the_same_as_an_eager_one(vectorize):
    torch.manual_seed(0)
    rows = [torch.randperm(ROWS)[:4] for _ in range(8)]
    compiled, eager = (
        fit(
            avi.SVI,
            Linear,
            loss=lambda: pyro.infer.RenyiELBO(num_particles=2, max_plate_nesting=1, vectorize_particles=vectorize),
            arguments=lambda step: (rows[step],),
            compile=compile,
        )
        for compile in (True, False)
    )
    assert compiled.svi.compilations == 1
    assert_same(compiled, eager)
