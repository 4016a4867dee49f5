"""Training by Lightning: the objective of a step, the result of a fit, checkpoints."""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.data import Batch
from amortvi.errors import AmortviError, DataError, MissingDependencyError, NonFiniteError, OptionError
from amortvi.objectives import ELBO, make_objective
from amortvi.training.modules import TrainedModules
from amortvi.training.steps import Totals, Update

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Lightning imports is its own concern
    lightning = pytest.importorskip("lightning")
    from amortvi.inference.lightning import AmortizedModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*no .val_dataloader.|.*defined a .validation_step. but"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]

EXACT = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 0.3]]), scale=0.5)
X = EXACT.simulate(600, seed=0)
HELD_OUT = EXACT.simulate(100, seed=1)


def loader(x: Tensor, shuffle: bool = True) -> Any:
    return DataLoader(TensorDataset(x), 100, shuffle=shuffle)


def trainer(**options: Any) -> Any:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    return lightning.Trainer(accelerator="cpu", devices=1, **{**quiet, **options})


def exact_vi() -> avi.AmortizedVI:
    return avi.AmortizedVI(EXACT, avi.encoders.MLP(3, []), "full", freeze_model=True)


def vae() -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = avi.models.VAE(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)), 2, "normal")
        return avi.AmortizedVI(model, avi.encoders.MLP(3, [8]), "full")


@pytest.mark.slow
def test_the_exact_posterior_is_found() -> None:
    vi = exact_vi()
    lightning.seed_everything(0, verbose=False)
    module, fit = AmortizedModule(vi, X, lr=0.05), trainer(max_epochs=15, gradient_clip_val=10.0)
    fit.fit(module, loader(X), loader(HELD_OUT, shuffle=False))
    evidence = float(EXACT.log_evidence(HELD_OUT).mean())
    assert evidence - float(vi.evaluate(HELD_OUT, seed=0)["elbo"].mean()) < 0.05
    assert float(fit.callback_metrics["val_elbo"]) == pytest.approx(evidence, abs=0.2)
    np.testing.assert_allclose(vi.posterior(HELD_OUT).mean["z"], EXACT.posterior(HELD_OUT).mean, atol=0.3)
    assert vi.to_arviz(HELD_OUT, draws=5, prior_draws=2, seed=0)["posterior"]["z"].shape == (4, 5, 100, 2)
    table = avi.compare({"lightning": vi, "untrained": exact_vi().setup(X, seed=0)}, HELD_OUT)
    assert table.index[0] == "lightning"


def priors_outside_the_plate(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


@pytest.mark.parametrize("case", ["vae", "frozen", "iwae", "kl weight", "global latent"])
def test_a_step_has_the_objective_and_the_gradient_of_a_fit(case: str) -> None:
    x, objective = (X[:, 0] if case == "global latent" else X), "iwae" if case == "iwae" else "elbo"
    chosen: Any = ELBO(kl_weight=0.3) if case == "kl weight" else objective
    if case == "global latent":
        vi = avi.AmortizedVI(priors_outside_the_plate, avi.encoders.MLP(1, [4]))
    else:
        vi = exact_vi() if case == "frozen" else vae()
    module = AmortizedModule(vi, x, objective=chosen, seed=0)
    modules = TrainedModules(vi.generative, vi.guide.network, freeze_model=vi.freeze_model)
    modules.train()
    if not vi.freeze_model:
        vi.guide.network.family.unlock(0.0)  # the posterior is diagonal at first
    optimizer = torch.optim.SGD(modules.parameters, lr=0.1)
    update = Update(
        modules, make_objective(chosen), 600, Totals(torch.device("cpu")), optimizer, modules.parameters, None
    )
    torch.manual_seed(1)
    with vi.generative.program.own_parameters():
        expected = update.differentiate(Batch((x[:100],)))
    module.train()
    found: dict[str, Any] = {}

    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            torch.manual_seed(1)

        def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
            found["loss"] = loss.detach()

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            found["gradients"] = [None if each.grad is None else each.grad.clone() for each in modules.parameters]

    trainer(max_steps=1, callbacks=[Look()]).fit(module, loader(x, shuffle=False))
    torch.testing.assert_close(found["loss"], expected.loss, rtol=0, atol=0)
    assert [each is None for each in found["gradients"]] == [each is None for each in expected.gradients]
    given, wanted = ([each for each in some if each is not None] for some in (found["gradients"], expected.gradients))
    torch.testing.assert_close(given, wanted, rtol=1e-6, atol=1e-7)


def test_schedules_follow_the_epochs() -> None:
    times, rates, locked = [], [], []

    def weight(epochs: float) -> float:
        times.append(epochs)
        return min(1.0, epochs / 4)

    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            locked.append(float(module.network.family.to_parameters.rates.min()))

    module = AmortizedModule(vae(), X, objective=ELBO(kl_weight=weight), lr=0.01, seed=0)
    times.clear()
    trainer(max_epochs=8, callbacks=[Look()]).fit(module, loader(X))
    assert times == pytest.approx([step / 6 for step in range(48)])
    assert rates[:24] == pytest.approx([0.01] * 24)
    assert rates[36] == pytest.approx(0.005)
    assert locked[0] == 0.0 < locked[-1]


def test_a_checkpoint_restores_the_posterior(tmp_path: Path) -> None:
    vi = vae()
    fit = trainer(max_epochs=2)
    fit.fit(AmortizedModule(vi, X, seed=0), loader(X), loader(HELD_OUT, shuffle=False))
    fit.save_checkpoint(tmp_path / "run.ckpt")
    other = vae()
    AmortizedModule.load_from_checkpoint(
        tmp_path / "run.ckpt", vi=other, x=X[:50], observations=600, weights_only=False
    )
    for name in ("mean", "std"):
        expected, found = getattr(vi.posterior(HELD_OUT), name)["z"], getattr(other.posterior(HELD_OUT), name)["z"]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(other.model.decoder[0].weight, vi.model.decoder[0].weight)


def test_a_frozen_model_does_not_change() -> None:
    vi = vae()
    frozen = avi.AmortizedVI(vi.model, vi.encoder, "full", freeze_model=True)
    before = [parameter.clone() for parameter in vi.model.parameters()]
    trainer(max_epochs=1).fit(AmortizedModule(frozen, X), loader(X))
    assert all(torch.equal(a, b) for a, b in zip(before, vi.model.parameters(), strict=True))


def test_mistakes() -> None:
    for options in ({"lr": 0.0}, {"objective": "none"}, {"objective": 3}):
        with pytest.raises(OptionError):
            AmortizedModule(vae(), X, **options)
    with pytest.raises(AmortviError):
        AmortizedModule(vae(), X[:, :2])
    with pytest.raises(OptionError, match="labels="):
        AmortizedModule(avi.AmortizedVI(EXACT, avi.encoders.MLP(3), labels="y"), X)
    with pytest.raises(OptionError, match=r"precision must be '32-true' or '64-true'.*'bf16-mixed'"):
        trainer(max_epochs=1, precision="bf16-mixed").fit(AmortizedModule(vae(), X), loader(X))
    bad = X.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(DataError, match="batch"):
        trainer(max_epochs=1).fit(AmortizedModule(vae(), X), loader(bad))


def test_a_loss_that_is_not_finite_ends_the_fit_before_the_update() -> None:
    vi = vae()
    module = AmortizedModule(vi, X, seed=0)
    with torch.no_grad():
        vi.model.decoder[2].bias.fill_(1e30)
    before = [parameter.clone() for parameter in vi.guide.parameters()]
    with pytest.raises(NonFiniteError, match=r"the loss is .*epoch 0, batch 0"):
        trainer(max_epochs=1).fit(module, loader(X))
    assert all(torch.equal(a, b) for a, b in zip(before, vi.guide.parameters(), strict=True))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "amortvi.inference.lightning")
    with pytest.raises(MissingDependencyError, match=r"AmortizedModule needs lightning.*'amortvi\[lightning\]'"):
        __import__("amortvi.inference.lightning")
