"""The encoder trained further on data that the model simulates."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils.data import DataLoader

import amortvi as avi
from amortvi.data import Batch
from amortvi.data.replicated import ReplicatedObservations
from amortvi.errors import DataError, ModelError, NotFittedError, OptionError
from tests.inference.problem import MODEL, X, make_vi

FEW = {"epochs": 2, "seed": 0, "progress": False}


def amortization_gap(vi: avi.AmortizedVI, x: Tensor) -> float:
    """Return how much refinement gains, in nats per observation."""
    before, after = (vi.evaluate(posterior=q, particles=200, seed=0)["elbo"] for q in (vi.posterior(x), vi.refine(x)))
    return float((after - before).mean())


def test_replicates_generalize() -> None:
    """A wide encoder that has seen twenty observations is wrong about others; the exact one is linear."""
    train, held_out = MODEL.simulate(20, seed=1), MODEL.simulate(200, seed=2)
    vi = make_vi(encoder=avi.encoders.MLP(3, [64, 64]), freeze_model=True)
    vi.fit(train, epochs=300, seed=0, progress=False)
    before = amortization_gap(vi, held_out)
    vi.fit_encoder(train, epochs=100, replicates=9, seed=0, progress=False)
    assert before > 0.02
    assert amortization_gap(vi, held_out) < before / 3


def test_the_model_does_not_change_and_the_history_continues() -> None:
    model = avi.models.VAE(torch.nn.Linear(2, 3), 2, "normal")
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [8]), "full").fit(X, validation_data=X[:5], **FEW)
    weights = [parameter.clone() for parameter in model.parameters()]
    encoder = [parameter.clone() for parameter in vi.encoder.parameters()]
    vi.fit_encoder(X, validation_data=X[:5], **FEW)
    assert all(torch.equal(now, before) for now, before in zip(model.parameters(), weights, strict=True))
    assert not any(torch.equal(now, before) for now, before in zip(vi.encoder.parameters(), encoder, strict=True))
    assert list(vi.history.index) == [1, 2, 3, 4]
    assert vi.history["validation_elbo"].notna().all()
    vi.fit(X, **FEW)
    assert not all(torch.equal(now, before) for now, before in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_seed_makes_it_reproducible_and_leaves_the_random_state_untouched(compile: bool | str) -> None:
    def trained() -> Tensor:
        state = torch.get_rng_state()
        vi = make_vi().fit(X, **FEW).fit_encoder(X, **{**FEW, "epochs": 30}, compile=compile)
        assert torch.equal(torch.get_rng_state(), state)
        return vi.posterior(X).mean["z"]

    assert torch.equal(trained(), trained())


def test_a_fit_that_had_not_converged_still_has_not() -> None:
    vi = make_vi().fit(X, **FEW)
    alone = {"epochs": 60, "lr": 1e-12, "lr_schedule": "constant", "seed": 0, "progress": False}
    assert vi.fit_encoder(X, **alone).status == "budget"


def test_replicates_are_drawn_anew_and_keep_covariates_and_masked_entries() -> None:
    def model(y: Tensor, exposure: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(y)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
            pyro.sample("y", dist.Poisson(rate * exposure).mask(seen).to_event(1), obs=y)

    generator = torch.Generator().manual_seed(0)
    exposure = 1 + torch.rand(30, 2, generator=generator)
    y, seen = torch.poisson(3 * exposure, generator=generator), torch.rand(30, 2, generator=generator) < 0.7
    x = (y, exposure, seen)
    read: list[Batch] = []

    class Reading(avi.encoders.MLP):
        def forward(self, *inputs: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                read.append(Batch(tuple(value.clone() for value in inputs)))
            return super().forward(*inputs)

    vi = avi.AmortizedVI(model, Reading(6, [8])).fit(x, **FEW, standardize=False)
    read.clear()
    vi.fit_encoder(x, replicates=1, batch_size=60, compile=False, **FEW)
    first, second = (torch.cat(batch.args, dim=1) for batch in read)
    first, second = (rows[rows[:, 2].argsort(stable=True)] for rows in (first, second))  # by exposure
    assert torch.equal(first[:, 2:], second[:, 2:])
    masked = first[:, 4:] == 0
    assert torch.equal(first[:, :2][masked], second[:, :2][masked])
    # A pair consists of an observation and its replicate; the observation is the same in both epochs.
    pairs = [set(map(tuple, rows[:2, :2].tolist())) for rows in (first, second)]
    assert tuple(y[exposure[:, 0].argmin()].tolist()) in pairs[0] & pairs[1]
    assert not torch.equal(first[:, :2].sort(dim=0).values, second[:, :2].sort(dim=0).values)


def test_the_first_copies_are_the_observations() -> None:
    observed = Batch((torch.arange(6.0).reshape(3, 2),))
    replicated = ReplicatedObservations(observed, lambda batch: batch.map(lambda value: -value), 2, "x")
    assert replicated.size == 9
    rows = next(replicated.shuffled(9, torch.Generator().manual_seed(0))).gather().args[0]
    values = observed.args[0]
    assert torch.equal(rows.sort(dim=0).values, torch.cat([values, -values, -values]).sort(dim=0).values)


def test_the_summary_is_that_of_the_last_epoch() -> None:
    vi = make_vi().fit(X, **FEW).fit_encoder(X, epochs=60, seed=0, progress=False)
    assert "62 epochs" in vi.summary()
    assert "best" not in vi.summary()


def test_weights_that_model_and_encoder_share_are_refused() -> None:
    """A model that contains the encoder without using it is not."""
    shared = torch.nn.Linear(2, 3)

    class Transposed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = shared

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.layer.weight

    vi = avi.AmortizedVI(avi.models.VAE(shared, 2, "normal"), Transposed(), "full").fit(X, **FEW)
    with pytest.raises(ModelError, match=r"shares model\.decoder\.weight"):
        vi.fit_encoder(X, **FEW)
    model = avi.models.VAE(torch.nn.Linear(2, 3), 2, "normal")
    model.encoder = avi.encoders.MLP(3, [8])
    vi = avi.AmortizedVI(model, model.encoder, "full").fit(X, **FEW)
    assert len(vi.fit_encoder(X, **FEW).history) == 4


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        make_vi().fit_encoder(X)
    vi = make_vi().fit(X, **FEW)
    with pytest.raises(DataError, match="in memory"):
        vi.fit_encoder(DataLoader(X, batch_size=10), progress=False)
    with pytest.raises(OptionError, match="replicates"):
        vi.fit_encoder(X, replicates=0)

    def factor(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", dist.Normal(z.unsqueeze(-1), 1.0).log_prob(x).sum(-1))

    vi = avi.AmortizedVI(factor, avi.encoders.MLP(3)).fit(X, **FEW)
    with pytest.raises(ModelError, match=r"pyro\.factor"):
        vi.fit_encoder(X, **FEW)
    assert len(vi.history) == 2
