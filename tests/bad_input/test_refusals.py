"""A table of bad inputs to every public entry point: each is refused by its own error, and changes nothing at all."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi import encoders, families, objectives
from amortvi.errors import (
    AmortviError,
    CheckpointError,
    DataError,
    EncoderError,
    FamilyError,
    ModelError,
    NotFittedError,
    OptionError,
)
from amortvi.io.saved_run import NewerFormatError
from tests.bad_input.calls import X, damaged, families_of, fits, fresh, held, loads, rewritten, sets_up
from tests.bad_input.helpers import data, estimator, fit, not_finite, refused
from tests.bad_input.snapshots import Snapshot

NAN = not_finite()
STEP_LR = torch.optim.lr_scheduler.StepLR


Row = tuple[Callable[[Any], Any], type[AmortviError], str]

FIT: dict[str, Row] = {
    "epochs": (fits(epochs=0), OptionError, "epochs"),
    "epochs, true": (fits(epochs=True), OptionError, "epochs"),
    "batch size": (fits(batch_size=2.5), OptionError, "batch_size"),
    "lr": (fits(lr=0.0), OptionError, "lr"),
    "lr, nan": (fits(lr=math.nan), OptionError, "lr"),
    "lr, text": (fits(lr="1e-3"), OptionError, "lr"),
    "gradient clip": (fits(gradient_clip=-1), OptionError, "gradient_clip"),
    "patience alone": (fits(patience=3), OptionError, "patience"),
    "patience": (fits(patience=0, validation_data=X), OptionError, "patience"),
    "seed": (fits(seed=-1), OptionError, "seed"),
    "seed, text": (fits(seed="a"), OptionError, "seed"),
    "device": (fits(device="gpu"), OptionError, "device"),
    "missing device": (fits(device="cuda:99"), OptionError, "device"),
    "meta device": (fits(device="meta"), OptionError, "device"),
    "dtype": (fits(dtype=torch.int32), OptionError, "dtype"),
    "dtype, text": (fits(dtype="float64"), OptionError, "dtype"),
    "dtype, half": (fits(dtype=torch.float16, x=X.half()), OptionError, "dtype"),
    "objective": (fits(objective="ELBO"), OptionError, "objective"),
    "objective, class": (fits(objective=objectives.ELBO), OptionError, "objective"),
    "optimizer": (fits(optimizer="adam"), OptionError, "optimizer"),
    "optimizer, signature": (fits(optimizer=lambda parameters: None), OptionError, "optimizer"),
    "optimizer, result": (fits(optimizer=lambda parameters, lr: 3), OptionError, "optimizer"),
    "schedule": (fits(lr_schedule=3), OptionError, "lr_schedule"),
    "schedule, class": (fits(lr_schedule=STEP_LR, lr=0.7), OptionError, "lr_schedule"),
    "schedule, result": (fits(lr_schedule=lambda optimizer: 3, lr=0.7), OptionError, "lr_schedule"),
    "schedule, new optimizer": (fits(lr_schedule=lambda _: 3, optimizer=torch.optim.SGD), OptionError, "lr_schedule"),
    "schedule, double": (fits(lr_schedule=lambda _: 3, x=X.double(), dtype=torch.float64), OptionError, "lr_schedule"),
    "compile": (fits(compile="always"), OptionError, "compile"),
    "verify": (fits(verify="maybe"), OptionError, "verify"),
    "optimizer, double": (
        fits(optimizer=lambda *_, **__: 3, x=X.double(), dtype=torch.float64),
        OptionError,
        "optimizer",
    ),
    "unknown option": (fits(epoch=3), OptionError, "epoch"),
    "callbacks": (fits(callbacks=3), OptionError, "callbacks"),
    "callbacks, functions": (fits(callbacks=[print]), OptionError, "callbacks"),
    "checkpoint": (fits(checkpoint=3), OptionError, "checkpoint"),
    "every": (fits(every="1h"), OptionError, "every"),
    "keep": (fits(keep=0), OptionError, "keep"),
    "validation fraction": (fits(validation_data=1.5), DataError, "validation_data"),
    "validation shape": (fits(validation_data=data(features=4)), DataError, "validation_data"),
    "validation values": (fits(validation_data=NAN), DataError, "validation_data"),
    "validation, double": (
        fits(validation_data=NAN.double(), x=X.double(), dtype=torch.float64),
        DataError,
        "validation_data",
    ),
    "nan": (fits(x=NAN), DataError, "x has 2 NaN"),
    "nan, double": (fits(x=NAN.double(), dtype=torch.float64), DataError, "x has 2 NaN"),
    "nan, array": (fits(x=NAN.numpy()), DataError, "x has 2 NaN"),
    "nan, loader": (fits(x=DataLoader(TensorDataset(NAN), 8)), DataError, "x has"),
    "shape": (fits(x=data(features=4)), DataError, "x must have observations of shape (3,)"),
    "arguments": (fits(x=(X, X)), DataError, "x must hold the same arguments"),
    "none": (fits(x=None), DataError, "x must be"),
    "number": (fits(x=3.0), DataError, "x must be"),
    "text": (fits(x="digits.csv"), DataError, "x must be"),
    "strings": (fits(x=np.array(["a"])), DataError, "x must hold numbers"),
    "no rows": (fits(x=X[:0]), DataError, "x has no observations"),
    "complex": (fits(x=X.to(torch.complex64)), DataError, "x must hold real numbers"),
    "sparse": (fits(x=X.to_sparse()), DataError, "x must be a dense tensor"),
    "ragged": (fits(x=[[1.0], [2.0, 3.0]]), DataError, "x cannot be read"),
    "generator": (lambda g: fit(g.vi, (row for row in X)), DataError, "x must be"),
    "posterior": (lambda g: fit(g.vi, g.posterior), DataError, "x"),
    "batch size of a loader": (lambda g: fit(g.vi, g.loader, batch_size=7), OptionError, "batch_size"),
}
NEW: dict[str, Row] = {
    "nan": (fresh(x=NAN), DataError, "x has 2 NaN"),
    "type": (fresh(x=X.double()), DataError, "x is a tensor of torch.float64"),
    "failing model": (fresh("failing"), ModelError, "model"),
    "failing model, double": (fresh("failing", x=X.double(), dtype=torch.float64), ModelError, "model"),
    "failing model, setup": (sets_up("failing"), ModelError, "model"),
    "failing encoder": (fresh(encoder="mixing"), EncoderError, "context"),
    "failing encoder, setup": (sets_up(encoder="mixing"), EncoderError, "context"),
    "encoder of another size": (fresh(encoder="encoder", x=data(features=4)), EncoderError, "MLP"),
    "plate": (fresh(plate="rows"), ModelError, "rows"),
    "plate, setup": (sets_up(plate="rows"), ModelError, "rows"),
    "rank": (fresh(family=families.LowRank(rank=5)), FamilyError, "rank"),
    "rank, setup": (sets_up(family=families.LowRank(rank=5)), FamilyError, "rank"),
    "global guide": (fresh(global_guide=pyro.infer.autoguide.AutoNormal), ModelError, "global_guide"),
    "labels": (fresh(labels="y"), ModelError, "labels"),
    "optimizer": (fresh(optimizer=lambda parameters, lr: 3), OptionError, "optimizer"),
    "schedule": (fresh(lr_schedule=lambda optimizer: 3), OptionError, "lr_schedule"),
    "schedule, double": (fresh(lr_schedule=lambda _: 3, x=X.double(), dtype=torch.float64), OptionError, "lr_schedule"),
    "seed": (lambda g: estimator(g.model, g.lazy).setup(X, seed=-1), OptionError, "seed"),
    "setup without data": (sets_up(x=None), DataError, "x must be"),
    "setup again": (lambda g: g.vi.setup(data(features=4)), DataError, "x must have observations of shape"),
    "model": (lambda g: estimator(3, g.lazy), ModelError, "model"),
    "encoder": (lambda g: avi.AmortizedVI(g.model, print), EncoderError, "encoder"),
    "encoder, class": (lambda g: avi.AmortizedVI(g.model, nn.Linear), EncoderError, "encoder"),
    "family": (lambda g: avi.AmortizedVI(g.model, g.lazy, "flows"), FamilyError, "family"),
    "family, number": (lambda g: avi.AmortizedVI(g.model, g.lazy, 3), FamilyError, "family"),
    "labels, number": (lambda g: avi.AmortizedVI(g.model, g.lazy, labels=3), OptionError, "labels"),
    "guide, number": (lambda g: avi.AmortizedVI(g.model, g.lazy, global_guide=3), OptionError, "global_guide"),
    "not fitted": (lambda g: estimator(g.model, g.lazy).posterior(X), NotFittedError, "fit or setup"),
    "fit_encoder first": (lambda g: estimator(g.model, g.lazy).fit_encoder(X), NotFittedError, "fit"),
    "save first": (lambda g: estimator(g.model, g.lazy).save(g.path / "new"), NotFittedError, "fit or setup"),
}
METHODS: dict[str, Row] = {
    "fit_encoder, replicates": (lambda g: g.vi.fit_encoder(X, replicates=0), OptionError, "replicates"),
    "fit_encoder, loader": (lambda g: g.vi.fit_encoder(g.loader, epochs=1, progress=False), DataError, "DataLoader"),
    "fit_encoder, nan": (lambda g: g.vi.fit_encoder(g.bad, epochs=1, progress=False), DataError, "x has 2 NaN"),
    "fit_encoder, schedule": (lambda g: g.vi.fit_encoder(X, lr_schedule=lambda _: 3), OptionError, "lr_schedule"),
    "to, device": (lambda g: g.vi.to("gpu"), OptionError, "device"),
    "to, device and type": (lambda g: g.vi.to("gpu", torch.float64), OptionError, "device"),
    "to, type": (lambda g: g.vi.to(dtype=torch.int64), OptionError, "dtype"),
    "posterior": (lambda g: g.vi.posterior(None), DataError, "x must be"),
    "posterior, nan": (lambda g: g.vi.posterior(g.bad), DataError, "x has 2 NaN"),
    "posterior, shape": (lambda g: g.vi.posterior(data(features=4)), DataError, "x must have observations of shape"),
    "posterior, shuffled": (lambda g: g.vi.posterior(g.loader), DataError, "x is a DataLoader that shuffles"),
    "sample": (lambda g: g.posterior.sample(0), OptionError, "draws"),
    "sample, proposals": (lambda g: g.posterior.sample(3, proposals=9), OptionError, "proposals"),
    "sample, few": (lambda g: g.posterior.sample(3, proposals=2, resample=True), OptionError, "proposals"),
    "sample, resample": (lambda g: g.posterior.sample(3, resample=7), OptionError, "resample"),
    "sample, seed": (lambda g: g.posterior.sample(3, seed=1.5), OptionError, "seed"),
    "quantiles": (lambda g: g.posterior.quantiles([0.5, 2.0]), OptionError, "quantiles"),
    "log_prob": (lambda g: g.posterior.log_prob({"z": torch.zeros(39, 2)}), DataError, "values"),
    "log_prob, site": (lambda g: g.posterior.log_prob({"y": torch.zeros(40, 2)}), DataError, "values"),
    "select": (lambda g: g.posterior.select([0, 40]), DataError, "rows"),
    "label_probs": (lambda g: g.posterior.label_probs, OptionError, "labels="),
    "refine, method": (lambda g: g.vi.refine(X, method="newton"), OptionError, "method"),
    "refine, draws": (lambda g: g.vi.refine(X, draws=1), OptionError, "draws"),
    "refine, seed": (lambda g: g.vi.refine(X, seed=None), OptionError, "seed"),
    "refine, family": (lambda g: g.vi.refine(X, "flows"), FamilyError, "family"),
    "refine, posterior": (lambda g: g.vi.refine(posterior=g.foreign), OptionError, "posterior"),
    "refine, rows": (lambda g: g.vi.refine(X[:5], posterior=g.posterior), DataError, "posterior"),
    "refine, nothing": (lambda g: g.vi.refine(), OptionError, "posterior="),
    "evaluate": (lambda g: g.vi.evaluate(X, particles=0), OptionError, "particles"),
    "evaluate, seed": (lambda g: g.vi.evaluate(X, seed=-1), OptionError, "seed"),
    "evaluate, nan": (lambda g: g.vi.evaluate(g.bad), DataError, "x has 2 NaN"),
    "evaluate, posterior": (lambda g: g.vi.evaluate(posterior=3), OptionError, "posterior"),
    "predict": (lambda g: g.vi.predict(X, 2.5), OptionError, "draws"),
    "predict, frame": (lambda g: g.vi.predict(g.frame.astype(str)), DataError, "x must have only numeric"),
    "sample_prior": (lambda g: g.vi.sample_prior(-1), OptionError, "n must"),
    "to_arviz": (lambda g: g.vi.to_arviz(X, 0), OptionError, "draws"),
    "to_arviz, prior": (lambda g: g.vi.to_arviz(X, 3, prior_draws=-1), OptionError, "prior_draws"),
    "to_arviz, resample": (lambda g: g.vi.to_arviz(X, 3, resample="yes"), OptionError, "resample"),
    "predict_proba": (lambda g: g.vi.predict_proba(X), OptionError, "labels="),
}
FILES: dict[str, Row] = {
    "missing": (loads("elsewhere"), CheckpointError, "elsewhere"),
    "a folder": (loads(""), CheckpointError, "folder without checkpoints"),
    "empty": (damaged(lambda run: b""), CheckpointError, "is damaged"),
    "garbage": (damaged(lambda run: b"garbage" * 99), CheckpointError, "is damaged"),
    "truncated": (damaged(lambda run: run[:-1]), CheckpointError, "is damaged"),
    "one bit": (damaged(lambda run: run[:-9] + bytes([run[-9] ^ 1]) + run[-8:]), CheckpointError, "is damaged"),
    "a bit of the header": (
        damaged(lambda run: run[:99] + bytes([run[99] ^ 1]) + run[100:]),
        CheckpointError,
        "damaged",
    ),
    "terabytes": (damaged(lambda run: (2**42).to_bytes(8, "little") + run[8:]), CheckpointError, "is damaged"),
    "a newer format": (rewritten(format=99), NewerFormatError, "newer than format"),
    "another history": (rewritten(history=torch.zeros(3, 2)), CheckpointError, "is damaged"),
    "another dtype": (rewritten(dtype="float16"), CheckpointError, "is damaged"),
    "another convergence": (rewritten(convergence={"status": "done"}), CheckpointError, "is damaged"),
    "no tensors": (rewritten(model={}), CheckpointError, "shift"),
    "larger tensors": (rewritten(model={"program.model.shift": torch.zeros(4)}), CheckpointError, "shift"),
    "another fingerprint": (rewritten(fingerprint={"latent": {"y": "[2]"}}), CheckpointError, "does not match"),
    "no example": (rewritten(example=None), CheckpointError, "example="),
    "another example": (rewritten(example={"args": [data(features=4)], "kwargs": {}}), CheckpointError, "fail"),
    "another encoder": (loads(encoder="lazy"), CheckpointError, "encoder"),
    "another model": (loads("double", "wide"), CheckpointError, "latent"),
    "a failing model": (loads("double", "failing"), CheckpointError, "model"),
    "another type and size": (loads("double"), CheckpointError, "encoder"),
    "another family": (loads("double", family="full"), CheckpointError, "family"),
    "unknown family": (loads("double", family="flows"), FamilyError, "family"),
    "another plate": (loads("double", plate="rows"), CheckpointError, "rows"),
    "save to a folder": (lambda g: g.vi.save(g.path), CheckpointError, "path"),
    "save into a file": (lambda g: g.vi.save(g.path / "run" / "inside"), CheckpointError, "inside"),
}
COMPARISON: dict[str, Row] = {
    "no families": (families_of(families=[]), OptionError, "families"),
    "one name": (families_of(families="full"), OptionError, "families"),
    "twice": (families_of(families=["full", "full"]), OptionError, "families"),
    "unknown": (families_of(families=["full", "flows"]), FamilyError, "family"),
    "rank": (families_of(families=["full", families.LowRank(rank=5)]), FamilyError, "rank"),
    "rank, frozen": (families_of(families=[families.LowRank(rank=5)], freeze_model=True), FamilyError, "rank"),
    "seeds": (families_of(seeds=[1, 1]), OptionError, "seeds"),
    "seed": (families_of(seed=3), OptionError, "seeds="),
    "option": (families_of(learning_rate=3), OptionError, "learning_rate"),
    "nan": (families_of(x=NAN), DataError, "x has 2 NaN"),
    "lazy": (lambda g: avi.fit_families(g.failing, g.lazy, ["full"], X), ModelError, "model failed"),
    "nothing": (lambda g: avi.compare({}, X), OptionError, "fits"),
    "list": (lambda g: avi.compare([g.vi], X), OptionError, "fits"),
    "by": (lambda g: avi.compare({"a": g.vi}, X, by="loo"), OptionError, "by"),
    "particles": (lambda g: avi.compare({"a": g.vi}, X, particles=0), OptionError, "particles"),
    "a posterior": (lambda g: avi.compare({"a": g.vi}, g.posterior), DataError, "x"),
    "not fitted": (lambda g: avi.compare({"a": g.vi, "b": estimator(g.model, g.lazy)}, X), NotFittedError, "fit"),
}
DIAGNOSTICS: dict[str, Row] = {
    "gaps": (lambda g: avi.gaps(g.vi, X, draws=1), OptionError, "draws"),
    "gaps, families": (lambda g: avi.gaps(g.vi, X, ["flows"]), FamilyError, "family"),
    "gaps, tolerance": (lambda g: avi.gaps(g.vi, X, tolerance=0.0), OptionError, "tolerance"),
    "diagnose": (lambda g: avi.diagnose(g.vi, g.bad), DataError, "x has 2 NaN"),
    "calibrate": (lambda g: avi.calibrate(g.vi, 0), OptionError, "simulations"),
    "calibrate, draws": (lambda g: avi.calibrate(g.vi, 50, 0), OptionError, "draws"),
    "calibrate, seed": (lambda g: avi.calibrate(g.vi, seed=-1), OptionError, "seed"),
    "evidence": (lambda g: avi.evidence(g.vi, X, draws=1), OptionError, "draws"),
    "evidence, simulations": (lambda g: avi.evidence(g.vi, X, simulations=-1), OptionError, "simulations"),
    "evidence, posterior": (lambda g: avi.evidence(g.vi, posterior=g.foreign), OptionError, "posterior"),
    "reference": (lambda g: avi.reference(g.vi, X, chains=0), OptionError, "chains"),
    "reference, acceptance": (lambda g: avi.reference(g.vi, X, target_accept=2.0), OptionError, "target_accept"),
    "annealed evidence": (lambda g: avi.annealed_evidence(g.vi, X, temperatures=0), OptionError, "temperatures"),
    "bracket": (lambda g: avi.bracket_evidence(g.vi, start="prior?"), OptionError, "start"),
    "latent usage": (lambda g: avi.latent_usage(g.vi, X, draws=0), OptionError, "draws"),
    "predictive check": (lambda g: avi.predictive_check(g.vi, X, latents="both"), OptionError, "latents"),
    "c2st": (lambda g: avi.c2st(X, X[:, :2]), DataError, "columns"),
    "c2st, folds": (lambda g: avi.c2st(X, X, folds=1), OptionError, "folds"),
    "report": (lambda g: avi.report(3, X, g.path / "report.html"), OptionError, "fits"),
}
PARTS: dict[str, Row] = {
    "LowRank": (lambda g: families.LowRank(rank=0), OptionError, "rank"),
    "Banded": (lambda g: families.Banded(bandwidth=-1), OptionError, "bandwidth"),
    "StudentT": (lambda g: families.StudentT(0), OptionError, "degrees_of_freedom"),
    "Mixture": (lambda g: families.Mixture(1), OptionError, "components"),
    "Structured": (lambda g: families.Structured({"z": 3}), FamilyError, "family"),
    "Flow": (lambda g: families.Flow(transforms=0), OptionError, "transforms"),
    "Flow, kind": (lambda g: families.Flow(kind="cubic"), OptionError, "kind"),
    "off_diagonal_rate": (lambda g: families.FullCovariance(off_diagonal_rate=0), OptionError, "off_diagonal_rate"),
    "ELBO": (lambda g: objectives.ELBO(0), OptionError, "particles"),
    "KL weight": (lambda g: objectives.ELBO(kl_weight=-1), OptionError, "kl_weight"),
    "KL form": (lambda g: objectives.ELBO(kl="exact?"), OptionError, "kl"),
    "IWAE": (lambda g: objectives.IWAE(gradient="path"), OptionError, "gradient"),
    "Renyi": (lambda g: objectives.Renyi(math.inf), OptionError, "alpha"),
    "LinearSchedule": (lambda g: objectives.LinearSchedule(0), OptionError, "epochs"),
    "MLP": (lambda g: encoders.MLP(0), OptionError, "in_features"),
    "MLP, hidden": (lambda g: encoders.MLP(3, [0]), OptionError, "hidden"),
    "MLP, dropout": (lambda g: encoders.MLP(3, dropout=1.5), OptionError, "dropout"),
    "SetAttention": (lambda g: encoders.SetAttention(1, [5], heads=2), OptionError, "heads"),
    "Recurrent": (lambda g: encoders.Recurrent(0), OptionError, "in_features"),
    "VAE": (lambda g: avi.models.VAE(g.encoder, 2, "gauss"), OptionError, "likelihood"),
    "LinearGaussian": (lambda g: avi.models.LinearGaussian(torch.eye(2), scale=0.0), OptionError, "scale"),
    "mask_missing": (lambda g: avi.mask_missing("digits.csv"), DataError, "x"),
    "pad": (lambda g: avi.pad([]), DataError, "arrays"),
}
ENTRIES = {"fit": FIT, "new": NEW, "methods": METHODS, "files": FILES, "comparison": COMPARISON}
ENTRIES |= {"diagnostics": DIAGNOSTICS, "parts": PARTS}
ROWS = {f"{entry}: {name}": row for entry, rows in ENTRIES.items() for name, row in rows.items()}


@pytest.mark.parametrize("name", ROWS)
def test_a_refusal_changes_nothing(name: str, fitted: avi.AmortizedVI, tmp_path: Path) -> None:
    call, error, argument = ROWS[name]
    given = held(fitted, tmp_path)
    before = Snapshot(**vars(given))
    with refused(error, argument, vi=given.vi):
        call(given)
    before.check()
