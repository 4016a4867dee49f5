"""Renyi's bound, against the exact evidence and against the bound of each observation by itself."""

import math

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

import amortvi as avi
from amortvi.errors import ModelError
from amortvi.compile.svi import RenyiELBO
from tests.exact import linear_gaussian
from tests.compile.svi.problems import assert_same, fit

ROWS = 12
TRUTH = linear_gaussian(latents=2, features=3)
X = TRUTH.simulate(ROWS, seed=0)
EVIDENCE = float(TRUTH.log_evidence(X).sum())


class Linear:
    """The linear-Gaussian model of a subsample, with a guide that is wider than the posterior."""

    def __init__(self, widen=1.4):
        self.posterior = TRUTH.posterior(X)
        self.width = widen * torch.linalg.inv(TRUTH.precision()).diagonal().sqrt()

    def model(self, rows):
        with pyro.plate("data", ROWS, subsample=rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ TRUTH.W.mT + TRUTH.bias, TRUTH.scale).to_event(1), obs=X[rows])

    def guide(self, rows):
        width = pyro.param("width", self.width.clone)
        with pyro.plate("data", ROWS, subsample=rows):
            pyro.sample("z", dist.Normal(self.posterior.mean[rows], width).to_event(1))


def estimates(loss, batches, *, problem=None):
    """The bound of the data set from each batch, and the standard error of their mean."""
    problem = problem or Linear()
    torch.manual_seed(0)
    values = torch.tensor([-loss.loss(problem.model, problem.guide, rows) for rows in batches])
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def batches(size, count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randperm(ROWS, generator=generator)[:size] for _ in range(count)]


def particles(count, alpha=0.0):
    return RenyiELBO(alpha=alpha, num_particles=count, vectorize_particles=True, max_plate_nesting=1)


def test_the_bound_rises_to_the_evidence():
    elbo, first_error = estimates(pyro.infer.Trace_ELBO(200, 1, vectorize_particles=True), batches(ROWS, 20))
    last, last_error = elbo, first_error
    for count in (2, 10, 100):
        bound, error = estimates(particles(count), batches(ROWS, 400))
        assert bound - last > 5 * math.hypot(error, last_error)
        assert bound - EVIDENCE < 5 * error
        last, last_error = bound, error
    assert EVIDENCE - last < 0.1 * (EVIDENCE - elbo)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 2.0])
def test_the_bound_does_not_depend_on_the_subsample(alpha):
    whole, whole_error = estimates(particles(5, alpha), batches(ROWS, 400))
    for size in (1, 4):
        part, part_error = estimates(particles(5, alpha), batches(size, 500))
        assert abs(part - whole) < 5 * math.hypot(part_error, whole_error)


def test_why_pyros_is_not_taken():
    """Pyro's bound of a subsample is another one, and no bound: it is above the evidence by far more than chance."""
    pyros = pyro.infer.RenyiELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    whole, whole_error = estimates(pyros, batches(ROWS, 400))
    part, part_error = estimates(pyros, batches(1, 500))
    assert part - whole > 10 * math.hypot(part_error, whole_error)
    assert part - EVIDENCE > 10 * part_error
    # Without a subsample it is the same bound.
    ours, ours_error = estimates(particles(5), batches(ROWS, 400))
    assert abs(ours - whole) < 5 * math.hypot(ours_error, whole_error)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_exactly_what_the_formula_says(vectorize, alpha):
    """The draws of one run, put into the formula by hand."""
    problem, rows = Linear(), torch.tensor([3, 8, 1])
    loss = RenyiELBO(alpha, num_particles=4, vectorize_particles=vectorize, max_plate_nesting=1)
    torch.manual_seed(2)
    value = -loss.loss(problem.model, problem.guide, rows)
    torch.manual_seed(2)
    q = torch.distributions.Normal(problem.posterior.mean[rows], problem.width)
    z = (
        q.mean + q.stddev * torch.randn(4, 3, 2, dtype=torch.float64)
        if vectorize
        else torch.stack([q.sample() for _ in range(4)])
    )
    log_p = torch.distributions.Normal(z @ TRUTH.W.mT + TRUTH.bias, TRUTH.scale).log_prob(X[rows]).sum(-1)
    log_w = log_p + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    each = (((1 - alpha) * log_w).logsumexp(0) - math.log(4)) / (1 - alpha)
    assert value == pytest.approx(float(ROWS / 3 * each.sum()), rel=1e-6)


def nested(rows, *, dims=(-2, -1), factor=True):
    """Several latents, a plate inside the data plate that has a subsample of its own, and a factor outside."""
    if factor:
        pyro.factor("outside", torch.tensor(-2.5).double())
    with pyro.plate("data", ROWS, subsample=rows, dim=dims[0]):
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0).double(), 1.0))
        with pyro.plate("inner", 4, subsample=torch.tensor([0, 2]), dim=dims[1]):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            with poutine.scale(scale=0.7):
                pyro.sample("y", dist.Normal(b, 1.0), obs=X[rows, :1] if dims[1] == -1 else X[rows, 0])


def nested_guide(rows, *, dims=(-2, -1), factor=True):
    with pyro.plate("data", ROWS, subsample=rows, dim=dims[0]):
        pyro.sample("a", dist.Normal(torch.tensor(0.1).double(), 0.9))
        with pyro.plate("inner", 4, subsample=torch.tensor([0, 2]), dim=dims[1]):
            pyro.sample("b", dist.Normal(torch.tensor(0.2).double(), 1.1))


@pytest.mark.parametrize("dims", [(-2, -1), (-1, -2)])
def test_plates_inside_and_outside(dims):
    rows = torch.tensor([3, 8, 1])
    loss = RenyiELBO(num_particles=3, max_plate_nesting=2)
    torch.manual_seed(2)
    value = -loss.loss(nested, nested_guide, rows, dims=dims)
    torch.manual_seed(2)
    weights = []
    for _ in range(3):
        guide = poutine.trace(nested_guide).get_trace(rows, dims=dims)
        model = poutine.trace(poutine.replay(nested, trace=guide)).get_trace(rows, dims=dims)
        weight = torch.zeros(3).double()
        for sign, trace, names in ((1, model, ("a", "b", "y")), (-1, guide, ("a", "b"))):
            trace.compute_log_prob()
            for name in names:
                # Pyro's log-probability has both scales in it; that of the data plate is to come out.
                log_prob = trace.nodes[name]["log_prob"] * 3 / ROWS
                inner = [] if log_prob.dim() < 2 else [dims[1]]
                weight = weight + sign * (log_prob.sum(inner) if inner and name != "a" else log_prob.flatten())
        weights.append(weight)
    bound = torch.stack(weights).logsumexp(0) - math.log(3)
    assert value == pytest.approx(float(ROWS / 3 * bound.sum()) - 2.5, rel=1e-6)


def test_a_loop_over_the_data():
    """Rows one after the other are observations as well as rows side by side."""

    def model(rows):
        for row in pyro.plate("data", ROWS, subsample=rows):
            z = pyro.sample(f"z_{row}", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample(f"x_{row}", dist.Normal(z @ TRUTH.W.mT + TRUTH.bias, TRUTH.scale).to_event(1), obs=X[row])

    def guide(rows):
        for row in pyro.plate("data", ROWS, subsample=rows):
            pyro.sample(f"z_{row}", dist.Normal(Linear().posterior.mean[row], Linear().width).to_event(1))

    loop = type("Loop", (), {"model": staticmethod(model), "guide": staticmethod(guide)})
    side_by_side, its_error = estimates(particles(3), batches(3, 600))
    one_by_one, error = estimates(RenyiELBO(num_particles=3), batches(3, 100), problem=loop)
    assert abs(side_by_side - one_by_one) < 5 * math.hypot(error, its_error)


def test_latents_of_the_whole_data_set():
    """Where no plate is shared, the bound is of all data together, as Pyro's is."""

    def model(rows):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("data", ROWS):
            pyro.sample("x", dist.Normal(z @ TRUTH.W.mT, TRUTH.scale).to_event(1), obs=X)

    def guide(rows):
        pyro.sample("z", dist.Normal(torch.zeros(2).double(), 0.5).to_event(1))

    values = []
    for kind in (RenyiELBO, pyro.infer.RenyiELBO):
        torch.manual_seed(0)
        values.append(kind(0.3, num_particles=4).loss(model, guide, None))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_gradient_is_that_of_the_bound():
    """Against finite differences of the loss from the same draws."""
    problem, rows, loss = Linear(), torch.tensor([3, 8, 1]), particles(4, 0.5)
    torch.manual_seed(3)
    loss.loss_and_grads(problem.model, problem.guide, rows)
    gradient = dict(pyro.get_param_store().named_parameters())["width"].grad.clone()
    numeric = []
    for position in range(2):
        losses = []
        for step in (1e-5, -1e-5):
            moved = problem.width.clone()
            moved[position] += step
            pyro.get_param_store()["width"] = moved
            torch.manual_seed(3)
            losses.append(loss.loss(problem.model, problem.guide, rows))
        numeric.append((losses[0] - losses[1]) / 2e-5)
    torch.testing.assert_close(gradient, torch.tensor(numeric).double(), rtol=1e-4, atol=1e-5)


def test_a_guide_that_cannot_be_differentiated():
    def model():
        pyro.sample("z", dist.Bernoulli(0.5))

    def guide():
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.5))))

    loss = RenyiELBO(num_particles=2)
    assert math.isfinite(loss.loss(model, guide))
    with pytest.raises(ModelError, match="site 'z' draws from Bernoulli"):
        loss.loss_and_grads(model, guide)


def test_svi_takes_the_right_one():
    """In eager steps as in compiled ones, with all options of Pyro's."""
    problem = Linear()
    pyros = pyro.infer.RenyiELBO(0.5, num_particles=3, max_plate_nesting=1, vectorize_particles=True)
    svi = avi.SVI(problem.model, problem.guide, pyro.optim.Adam({"lr": 0.01}), pyros, compile=False)
    rows = torch.tensor([3, 8, 1])
    torch.manual_seed(0)
    value = svi.evaluate_loss(rows)
    torch.manual_seed(0)
    assert value == RenyiELBO(0.5, 3, 1, vectorize_particles=True).loss(problem.model, problem.guide, rows)
    torch.manual_seed(0)
    assert svi.step(rows) == pytest.approx(value, rel=1e-12)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("vectorize", [False, True])
def test_compiled_as_eager(vectorize):
    def run(compile):
        return fit(
            avi.SVI,
            Linear,
            lambda: pyro.optim.Adam({"lr": 0.01}),
            lambda: pyro.infer.RenyiELBO(num_particles=3, max_plate_nesting=1, vectorize_particles=vectorize),
            arguments=lambda step: (batches(4, 20)[step],),
            compile=compile,
        )

    compiled = run(True)
    assert compiled.svi.compilations == 1
    assert_same(compiled, run(False))
