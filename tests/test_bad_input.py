"""Every bad input gets an error of ours, at the call that got it, that says what to do; and nothing has changed."""

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import amortvi as avi
from amortvi.errors import (
    AmortviError,
    CheckpointError,
    DataError,
    EncoderError,
    FamilyError,
    ModelError,
    NonFiniteError,
    NotFittedError,
    OptionError,
)

ROWS, FEATURES, LATENTS = 40, 3, 2


def prior(dim: int = LATENTS) -> Any:
    return dist.Normal(torch.zeros(dim), 1.0).to_event(1)


def decoded(z: Tensor) -> Tensor:
    return torch.cat([z, z[..., :1]], dim=-1)


def observe(z: Tensor, x: Tensor, name: str = "x") -> None:
    pyro.sample(name, dist.Normal(decoded(z), 0.5).to_event(1), obs=x)


def good_model(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()), x)


def data(rows: int = ROWS, features: int = FEATURES) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0))


def with_holes() -> Tensor:
    x = data()
    x[7, 1], x[9, 0], x[9, 2] = math.nan, math.inf, math.nan
    return x


def estimator(
    model: Any = good_model, encoder: Any = None, family: Any = "diagonal", **options: Any
) -> avi.AmortizedVI:
    return avi.AmortizedVI(model, network() if encoder is None else encoder, family, **options)


def network(hidden: int = 8) -> avi.encoders.MLP:
    """The same encoder each time, made without a trace in the global random state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return avi.encoders.MLP(FEATURES, [hidden])


def fit(vi: avi.AmortizedVI, x: Any, **options: Any) -> avi.AmortizedVI:
    return vi.fit(x, **{"epochs": 1, "batch_size": None, "seed": 0, "progress": False, **options})


@pytest.fixture
def fitted() -> avi.AmortizedVI:
    return fit(estimator(), data(), epochs=2)


def learned(vi: avi.AmortizedVI) -> dict[str, Tensor]:
    states = {"guide": vi.guide.state_dict(), "model": vi._generative.state_dict()}
    return {f"{part}.{name}": value.clone() for part, state in states.items() for name, value in state.items()}


def global_state() -> dict[str, Any]:
    """What belongs to the caller's process."""
    store = pyro.get_param_store()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        "default dtype": torch.get_default_dtype(),
        "validation of arguments": torch.distributions.Distribution._validate_args,
        "validation of pyro": (pyro.infer.util.is_validation_enabled(), pyro.poutine.util.is_validation_enabled()),
        "parameters": {name: id(value) for name, value in store._params.items()},
        "handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "gradients": torch.is_grad_enabled(),
    }


@contextlib.contextmanager
def nothing_changes(vi: avi.AmortizedVI | None = None) -> Iterator[None]:
    """Parameters, history, modes of modules and everything global are the same after as before."""
    parts = [] if vi is None else [*vi.guide.modules(), *vi._generative.modules()]
    modes = [part.training for part in parts]
    before, history, places = None, None, None
    if vi is not None:
        before, history, places = learned(vi), vi.history, (vi.device, vi.dtype, repr(vi))
    around = global_state()
    yield
    assert global_state() == around
    if vi is None:
        return
    assert before is not None
    assert history is not None
    now = learned(vi)
    assert now.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(now[name], value), name
    pd.testing.assert_frame_equal(vi.history, history)
    assert (vi.device, vi.dtype, repr(vi)) == places
    assert [part.training for part in parts] == modes


def refused(error: type[AmortviError], *says: str) -> Any:
    """An error of exactly this class whose message has all of these words, in their order."""
    pattern = ".*".join(re.escape(part) for part in says)
    return pytest.raises(error, match=re.compile(pattern, re.DOTALL))


def check_refused_by_fit(vi: avi.AmortizedVI, x: Any, error: type[AmortviError], *says: str, **options: Any) -> None:
    """The same bad call after a good fit leaves that fit as it was, and usable."""
    with nothing_changes(vi), refused(error, *says):
        fit(vi, x, **options)
    means = vi.posterior(data()).mean["z"]
    assert torch.isfinite(means).all()
    fit(vi, data())
    assert len(vi.history) == 3


# ------------------------------------------------------------------------------------------------------ what x holds


class Rows(Dataset[Any]):
    """A data set of given items."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


NOT_FINITE = {
    "tensor": lambda x: x,
    "numpy": lambda x: x.numpy(),
    "frame": lambda x: pd.DataFrame(x.numpy().astype(np.float64)),
    "tensor data set": TensorDataset,
    "data set": lambda x: Rows(x),
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=5),
}


@pytest.mark.parametrize("form", NOT_FINITE)
def test_not_finite_says_how_many_and_where(form: str, fitted: avi.AmortizedVI) -> None:
    if form in ("data set", "loader"):  # read as they come; a data set is shuffled by fit, so there is no row to name
        says = ("x has", "NaN", "infinite", "row", "Drop", "poutine.mask")
    else:
        says = ("x has 2 NaN and 1 infinite values", "[7, 1]", "2 rows (7, 9)", "Drop", "poutine.mask")
    check_refused_by_fit(fitted, NOT_FINITE[form](with_holes()), DataError, *says)


def test_not_finite_in_a_later_batch_of_a_loader_names_the_row(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(with_holes()), batch_size=4)
    with nothing_changes(fitted), refused(DataError, "x has 1 NaN and 0 infinite", "first at [7, 1]", "1 row (7)"):
        fitted.posterior(loader).mean  # noqa: B018
    with nothing_changes(fitted), refused(DataError, "x has 1 NaN and 0 infinite", "first at [7, 1]"):
        fitted.evaluate(loader, particles=2, seed=0)
    with nothing_changes(fitted), refused(DataError, "shuffled batch", "Drop"):
        fit(fitted, DataLoader(TensorDataset(with_holes()), batch_size=4, shuffle=True))


@pytest.mark.parametrize("method", ["posterior", "evaluate", "predict", "to_arviz"])
def test_every_method_checks_its_x(method: str, fitted: avi.AmortizedVI) -> None:
    with nothing_changes(fitted):
        with refused(DataError, "x has 2 NaN and 1 infinite"):
            getattr(fitted, method)(with_holes())
        with refused(DataError, "x must have observations of shape (3,)", "training data", "got (4,)"):
            getattr(fitted, method)(data(features=4))
        with refused(DataError, "x must hold the same arguments", "got x[0] of shape"):
            getattr(fitted, method)((data(), data()))
        with refused(DataError, "x must hold torch.float32", "got torch.int64", "x.to(torch.float32)"):
            getattr(fitted, method)(data().long())
        with refused(DataError, "x is a DataLoader that shuffles", "shuffle=False"):
            getattr(fitted, method)(DataLoader(TensorDataset(data()), shuffle=True))


def masked() -> Any:
    return np.ma.masked_array(data().numpy(), mask=data().numpy() > 1)


WRONG_DATA: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no rows": (torch.zeros(0, 3), ("x has no observations", "(0, 3)")),
    "no rows in NumPy": (np.zeros((0, 3)), ("x has no observations", "(0, 3)")),
    "no rows in a frame": (pd.DataFrame({"a": []}), ("x has no observations", "(0, 1)")),
    "no columns": (torch.zeros(5, 0), ("x has no numbers", "(5, 0)")),
    "empty list": ([], ("x has no observations",)),
    "empty tuple": ((), ("x must be a tensor", "DataLoader", "got an empty tuple")),
    "empty dict": ({}, ("x must be a tensor", "DataLoader", "got an empty dict")),
    "empty data set": (Rows([]), ("x has no observations",)),
    "empty loader": (DataLoader(Rows([])), ("x has no observations",)),
    "loader that drops all": (DataLoader(Rows(data()), batch_size=64, drop_last=True), ("x has no observations",)),
    "one number": (torch.tensor(3.0), ("x must have one row an observation", "single number", "(1, ...)")),
    "number": (3.0, ("x must be a tensor", "got float")),
    "none": (None, ("x must be a tensor", "got NoneType")),
    "generator": ((row for row in data()), ("x must be a tensor", "got generator")),
    "set": ({1, 2}, ("x must be a tensor", "got set")),
    "string": ("digits.csv", ("x must be a tensor", "got str")),
    "strings": (np.array(["a", "b"]), ("x must hold numbers", "dtype <U1", "Encode")),
    "objects": (np.array([1, None], dtype=object), ("x must hold numbers", "dtype object", "mask")),
    "dates": (np.array(["2020-01-01"], dtype="M8[D]"), ("x must hold numbers", "datetime64")),
    "complex": (data().numpy() + 1j, ("x must hold numbers", "complex")),
    "complex tensor": (data().to(torch.complex64), ("x must hold real numbers", "complex64", "view_as_real")),
    "double": (data().double(), ("x is a tensor of torch.float64", "work in torch.float32", "x.to(torch.float32)")),
    "half": (data().half(), ("x is a tensor of torch.float16", "work in torch.float32")),
    "sparse": (data().to_sparse(), ("x must be a dense tensor", "sparse", "x.to_dense()")),
    "meta": (data().to("meta"), ("x must hold numbers", "meta")),
    "ragged": ([[1.0, 2.0], [3.0]], ("x cannot be read as one array", "tuple")),
    "too large": (np.full((4, 3), 2**64 - 1, dtype=np.uint64), ("x has integers above", "rescale")),
    "masked": (masked(), ("x is a masked array", "x.filled(0)", "poutine.mask")),
    "text column": (
        pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]}),
        ("x must have numeric columns", "'b'", "get_dummies"),
    ),
    "date column": (
        pd.DataFrame({"a": pd.date_range("2020", periods=2)}),
        ("x must have numeric columns", "'a' (datetime64"),
    ),
    "category column": (
        pd.DataFrame({"a": pd.Categorical(["u", "v"])}),
        ("x must have numeric columns", "'a' (category)", "get_dummies"),
    ),
    "missing in a nullable column": (
        pd.DataFrame({"a": [1.0, 2.0], "b": pd.array([1, None], dtype="Int64"), "c": [1.0, 2.0]}),
        ("x has 1 NaN", "[1, 1]"),
    ),
    "category": (pd.Series(pd.Categorical([1, 2])), ("x must be numeric", "get_dummies")),
    "lengths": ((data(), data(5)), ("one row for each observation", "x[0] has 40, x[1] has 5")),
    "lengths by name": ({"x": data(), "y": data(5)}, ("one row for each observation", "x['x'] has 40, x['y'] has 5")),
    "number in a tuple": ((data(), 3), ("x[1] must have one row an observation",)),
    "none in a tuple": ((data(), None), ("x[1] must hold numbers", "NoneType")),
    "strings in a data set": (Rows(["a", "b"]), ("x[0] must hold numbers",)),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_cannot_be_used(case: str, fitted: avi.AmortizedVI) -> None:
    x, says = WRONG_DATA[case]
    check_refused_by_fit(fitted, x, DataError, *says)
    with nothing_changes(), refused(DataError, *says):
        fit(estimator(), x)
    if x is not None:
        with nothing_changes(fitted), refused(DataError, "validation_data"):
            fit(fitted, data(), validation_data=x)


def test_a_failed_fit_in_another_type_leaves_the_type(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(with_holes().double()), batch_size=4)
    check_refused_by_fit(fitted, loader, DataError, "x has 1 NaN", dtype=torch.float64)
    assert fitted.dtype == torch.float32


def test_first_fit_on_bad_data_is_no_fit() -> None:
    vi = estimator()
    loader = DataLoader(TensorDataset(with_holes()), batch_size=4)
    with refused(DataError, "x has 1 NaN"):
        fit(vi, loader)
    assert vi.history.empty
    with refused(NotFittedError, "call fit first"):
        vi.posterior(data())


def test_what_can_be_read_only_once(fitted: avi.AmortizedVI) -> None:
    class Once(IterableDataset[Tensor]):
        def __init__(self) -> None:
            self.rows = iter(data())

        def __iter__(self) -> Iterator[Tensor]:
            return self.rows

    check_refused_by_fit(fitted, Once(), DataError, "x gave no observations in this pass", "begin anew", epochs=3)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda x: {"sampler": SubsetRandomSampler(range(5))},
        lambda x: {"sampler": WeightedRandomSampler([1.0] * len(x), len(x))},
        lambda x: {"batch_sampler": BatchSampler(RandomSampler(x), 5, drop_last=False)},
    ],
)
def test_loaders_that_shuffle_by_a_sampler(
    sampler: Callable[[Tensor], dict[str, Any]], fitted: avi.AmortizedVI
) -> None:
    loader = DataLoader(TensorDataset(data()), **sampler(data()))
    with nothing_changes(fitted), refused(DataError, "x is a DataLoader that shuffles", "shuffle=False"):
        fitted.posterior(loader)
    fit(fitted, data(), validation_data=loader)  # where the order does not matter, any will do


def test_labels_beside_the_data() -> None:
    labelled = TensorDataset(data(), torch.ones(ROWS, dtype=torch.long))
    with (
        nothing_changes(),
        refused(EncoderError, "the encoder MLP failed", "x[1] of shape (40,)", "leave out", "labels"),
    ):
        fit(estimator(), labelled)

    class First(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return x

    with nothing_changes(), refused(ModelError, "the model failed", "x[1]", "2 arguments", "leave out", "labels"):
        fit(estimator(encoder=First()), labelled)


def test_unknown_keyword() -> None:
    with nothing_changes(), refused(ModelError, "the model failed on x['y']", "unexpected keyword argument 'y'"):
        fit(estimator(), {"y": data()})


def poisson(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        # Under the caller's own draw of the prior the rate may be anything; it says nothing of the data.
        pyro.sample("x", dist.Poisson((50 * decoded(z)).exp().clamp(max=1e3)).to_event(1), obs=x)


def outside_support(value: float) -> Tensor:
    x = torch.ones(300, FEATURES)
    x[250, 1] = value  # beyond the first batch, on which the model is read
    return x


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_data_outside_the_support_of_their_likelihood(value: float) -> None:
    says = (
        "observed site 'x' (Poisson)",
        "IntegerGreaterThan(lower_bound=0)",
        "1 of the",
        str(value),
        "choose a likelihood",
    )
    with nothing_changes(), refused(DataError, *says):
        fit(estimator(poisson), outside_support(value))
    with nothing_changes(), refused(DataError, *says):
        fit(estimator(poisson), outside_support(value)[240:])
    vi = fit(estimator(poisson), outside_support(1.0), lr=1e-6)
    for call in (
        vi.fit,
        lambda x, **_: vi.fit(outside_support(1.0), validation_data=x, seed=0, epochs=1, progress=False),
    ):
        with nothing_changes(vi), refused(DataError, *says):
            call(outside_support(value), seed=0, epochs=1, progress=False)
    with nothing_changes(vi), refused(DataError, *says):
        vi.evaluate(outside_support(value), particles=2, seed=0)
    with nothing_changes(vi), refused(DataError, *says):
        vi.to_arviz(outside_support(value), 2, prior_draws=0, seed=0)


def test_a_support_that_depends_on_the_latents_says_nothing_of_the_data() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            width = 8 + 50 * torch.sigmoid(pyro.sample("z", prior()).sum(-1))
            pyro.sample("x", dist.Uniform(-width, width), obs=x[:, 0])

    x = torch.zeros(300, FEATURES)
    fit(estimator(model), x)
    x[250] = 57.5  # possible, for a latent far out: the loss is to blame, not the data
    with refused(NonFiniteError, "observed site 'x' is not finite for 1 of"):
        fit(estimator(model), x, epochs=3)


# --------------------------------------------------------------------------------------------------- validation data


VALIDATION: dict[str, tuple[Any, tuple[str, ...]]] = {
    "shape": (data(features=4), ("validation_data must have observations of shape (3,)", "x", "got (4,)")),
    "structure": ((data(), data()), ("validation_data must hold the same arguments as x", "got validation_data[0]")),
    "names": ({"x": data()}, ("validation_data must hold the same arguments as x", "got validation_data['x']")),
    "integers": (data().long(), ("validation_data must hold torch.float32", "got torch.int64")),
    "holes": (with_holes(), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "holes in a data set": (Rows(with_holes()), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "holes later in a loader": (DataLoader(Rows(with_holes()), batch_size=4), ("validation_data has 1 NaN", "[7, 1]")),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_data(case: str, fitted: avi.AmortizedVI) -> None:
    x, says = VALIDATION[case]
    check_refused_by_fit(fitted, data(), DataError, *says, validation_data=x)


def test_patience_without_validation_data(fitted: avi.AmortizedVI) -> None:
    check_refused_by_fit(fitted, data(), OptionError, "patience needs validation_data", patience=3)


# ------------------------------------------------------------------------------------------------------------ options

NOT_POSITIVE_INTEGERS = [0, -1, True, 2.0, math.nan, "3", np.array([1, 2]), torch.tensor(3.0), np.True_]
NOT_POSITIVE_NUMBERS = [0, -1.0, True, math.nan, math.inf, "1e-3", np.array([1.0, 2.0]), torch.ones(2), None]
OPTIONS: list[tuple[str, Any, tuple[str, ...]]] = [
    *[
        (name, v, (f"{name} must be a positive integer", "got"))
        for name in ("epochs", "batch_size")
        for v in NOT_POSITIVE_INTEGERS
    ],
    *[("patience", value, ("patience must be a positive integer", "got")) for value in NOT_POSITIVE_INTEGERS],
    *[("lr", value, ("lr must be a", "number above zero", "got")) for value in NOT_POSITIVE_NUMBERS],
    *[
        ("gradient_clip", value, ("gradient_clip must be a", "number above zero"))
        for value in NOT_POSITIVE_NUMBERS[:-1]
    ],
    *[("seed", value, ("seed must be an integer from 0", "or None", "got")) for value in (-1, True, 1.5, "a", 2**64)],
    ("epochs", None, ("epochs must be a positive integer", "got None")),
    ("device", "cuda:99", ("device='cuda:99' cannot be used on this machine",)),
    ("device", "gpu", ("device='gpu' cannot be used on this machine", "cuda")),
    ("device", "meta", ("device='meta' cannot be used",)),
    ("device", object(), ("device=", "cannot be used")),
    ("dtype", torch.int32, ("dtype must be a floating type", "torch.float64", "got torch.int32")),
    ("dtype", "float64", ("dtype must be a floating type", "got 'float64'")),
    ("dtype", np.float64, ("dtype must be a floating type", "numpy.float64")),
    ("objective", "ELBO", ("objective must be one of", "elbo", "got 'ELBO'")),
    ("objective", avi.objectives.ELBO, ("objective must be one of", "elbo")),
    ("objective", [], ("objective must be one of", "got []")),
    ("optimizer", "adam", ("optimizer must be a torch.optim class", "got 'adam'")),
    ("optimizer", lambda parameters: None, ("could not be made as optimizer(parameters, lr=0.001)",)),
    ("optimizer", lambda parameters, lr: 3, ("optimizer must return a torch.optim.Optimizer", "got 3")),
    ("lr_schedule", 3, ("lr_schedule must be a callable (optimizer) -> schedule", "got 3")),
    ("lr_schedule", lambda optimizer: 3, ("lr_schedule must return a schedule", "got 3")),
    (
        "lr_schedule",
        torch.optim.lr_scheduler.StepLR,
        ("could not be made as lr_schedule(optimizer)", "step_size", "lambda"),
    ),
]


@pytest.mark.parametrize(
    ("option", "value", "says"), OPTIONS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(OPTIONS)]
)
def test_options_of_fit(option: str, value: Any, says: tuple[str, ...], fitted: avi.AmortizedVI) -> None:
    validation = {"validation_data": data()} if option == "patience" else {}
    check_refused_by_fit(fitted, data(), OptionError, *says, **{option: value}, **validation)


def test_batch_size_beside_a_loader(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(data()), batch_size=5)
    check_refused_by_fit(fitted, loader, OptionError, "batch_size is set by the DataLoader given as x", batch_size=7)


def test_numbers_of_other_libraries_are_numbers() -> None:
    """What is an integer or a number to NumPy or torch is one here, and trains as the plain one does."""
    fits = []
    for whole, real in ((int, float), (np.int64, np.float64), (torch.tensor, torch.tensor)):
        options = {"epochs": whole(2), "batch_size": whole(7), "lr": real(0.25), "gradient_clip": real(8.0)}
        fits.append(fit(estimator(), data(), seed=np.uint8(1), **options))
    for other in fits[1:]:
        assert all(torch.equal(value, learned(other)[name]) for name, value in learned(fits[0]).items())


COUNTS: dict[str, tuple[str, Callable[[avi.AmortizedVI, Any], Any]]] = {
    "evaluate": ("particles", lambda vi, n: vi.evaluate(data(), particles=n, seed=0)),
    "predict": ("draws", lambda vi, n: vi.predict(data(), n, seed=0)),
    "sample": ("draws", lambda vi, n: vi.posterior(data()).sample(n, seed=0)),
    "sample_prior": ("n", lambda vi, n: vi.sample_prior(n, seed=0)),
    "to_arviz": ("draws", lambda vi, n: vi.to_arviz(data(), n, seed=0)),
    "to_arviz, prior": ("prior_draws", lambda vi, n: vi.to_arviz(data(), 2, prior_draws=n, seed=0)),
    "objective": ("particles", lambda vi, n: avi.objectives.ELBO(n)),
}


@pytest.mark.parametrize("method", COUNTS)
@pytest.mark.parametrize("value", [*NOT_POSITIVE_INTEGERS, None], ids=repr)
def test_numbers_of_draws(method: str, value: Any, fitted: avi.AmortizedVI) -> None:
    name, call = COUNTS[method]
    if method == "to_arviz, prior" and isinstance(value, int) and not value:
        assert "prior" not in call(fitted, value)  # to have none is a choice
        return
    with nothing_changes(fitted), refused(OptionError, f"{name} must be a positive integer", "got"):
        call(fitted, value)


@pytest.mark.parametrize("seed", [-1, True, 1.5, "a", 2**64])
def test_seeds(seed: Any, fitted: avi.AmortizedVI) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: fitted.evaluate(data(), particles=2, seed=seed),
        lambda: fitted.predict(data(), 2, seed=seed),
        lambda: fitted.sample_prior(2, seed=seed),
        lambda: fitted.to_arviz(data(), 2, seed=seed),
        lambda: fitted.posterior(data()).sample(2, seed=seed),
    ]
    with nothing_changes(fitted):
        for call in calls:
            with refused(OptionError, "seed must be an integer from 0", "or None", "got"):
                call()


@pytest.mark.parametrize("quantiles", [0.5, None, ["a"], [0.0], [1.0], [math.nan], [0.5, 2.0]], ids=repr)
def test_quantiles(quantiles: Any, fitted: avi.AmortizedVI) -> None:
    with nothing_changes(fitted), refused(OptionError, "quantiles must", "got"):
        fitted.posterior(data()).quantiles(quantiles)


VALUES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "none": (None, ("values must be a dict with the latent sites ['z']", "got NoneType")),
    "tensor": (torch.zeros(ROWS, LATENTS), ("values must be a dict with the latent sites ['z']", "got Tensor")),
    "missing": ({}, ("values must be a dict with the latent sites ['z']", "got []")),
    "unknown": ({"y": torch.zeros(ROWS, LATENTS)}, ("latent sites ['z']", "got ['y']")),
    "array": ({"z": np.zeros((ROWS, LATENTS))}, ("values['z'] must be a tensor", "got ndarray")),
    "rows": ({"z": torch.zeros(39, LATENTS)}, ("values are of 39 observations", "40")),
    "shape": ({"z": torch.zeros(ROWS, 3)}, ("values['z'] must have shape (..., observations, 2)", "got (40, 3)")),
    "nan": ({"z": torch.full((ROWS, LATENTS), math.nan)}, ("values['z'] has values outside the support",)),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_for_log_prob(case: str, fitted: avi.AmortizedVI) -> None:
    values, says = VALUES[case]
    with nothing_changes(fitted), refused(DataError, *says):
        fitted.posterior(data()).log_prob(values)


# ----------------------------------------------------------------------------------------------------------- encoders


class Answers(nn.Module):
    """An encoder that returns what it is told to."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


ENCODERS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {
    "flat": (torch.flatten, ("must return a floating context of shape (observations, features)", "got (120,)")),
    "three dimensions": (
        lambda x: x[:, None],
        ("context of shape (observations, features)", "got (40, 1, 3)", "nn.Flatten"),
    ),
    "integers": (lambda x: x.long(), ("floating context", "torch.int64")),
    "tuple": (lambda x: (x, x), ("floating context", "got tuple", "one tensor")),
    "nothing": (lambda x: None, ("floating context", "got NoneType")),
    "rows": (lambda x: x[::2], ("one row an observation", "got 40 observations", "(20, 3)")),
    "no features": (lambda x: x[:, :0], ("at least one feature", "(40, 0)")),
    "raises": (lambda x: x @ x, ("the encoder Answers failed on x of shape (40, 3) and torch.float32", "RuntimeError")),
    "raises ours": (lambda x: {}["missing"], ("the encoder Answers failed", "KeyError: 'missing'")),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_what_an_encoder_returns(case: str) -> None:
    answer, says = ENCODERS[case]
    vi = estimator(encoder=Answers(answer))
    with nothing_changes(), refused(EncoderError, *says):
        fit(vi, data())
    assert vi.history.empty
    with refused(NotFittedError, "call fit first"):
        vi.posterior(data())


def test_a_batch_that_the_encoder_cannot_take() -> None:
    with nothing_changes(), refused(EncoderError, "encoder MLP failed on x of shape (40, 4)", "in_features=3", "got 4"):
        fit(estimator(), data(features=4))


@pytest.mark.parametrize("encoder", [lambda x: x, nn.Linear, "mlp", 3])
def test_encoders_that_are_no_modules(encoder: Any) -> None:
    got = {"function": "got function", "type": "got the class Linear"}.get(type(encoder).__name__, "got")
    with nothing_changes(), refused(EncoderError, "encoder must be an nn.Module", "forward", got):
        estimator(encoder=encoder)


# ------------------------------------------------------------------------------------------------------------- models


def without_plate(x: Tensor) -> None:
    observe(pyro.sample("z", prior()), x)


def two_candidates(x: Tensor) -> None:
    with pyro.plate("a", x.shape[0], dim=-1):
        z = pyro.sample("z", prior())
    with pyro.plate("b", x.shape[0], dim=-1):
        observe(z + pyro.sample("w", prior()), x)


def no_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", prior(FEATURES), obs=x)


def no_latent_in_plate(x: Tensor) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", x.shape[0]):
        observe(z.expand(x.shape[0], LATENTS), x)


def discrete_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        observe(z + pyro.sample("k", dist.Bernoulli(0.3))[:, None], x)


def latent_outside(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()) + w, x)


def observed_in_another_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    with pyro.plate("rows", x.shape[0]):
        observe(z, x)


def observed_outside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    pyro.sample("x", dist.Normal(decoded(z), 0.5).to_event(2), obs=x)


def nothing_observed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.deterministic("twice", 2 * pyro.sample("z", prior()))


def constant_size(x: Tensor) -> None:
    with pyro.plate("data", 50):
        observe(pyro.sample("z", prior()), x)


def own_subsample(x: Tensor) -> None:
    with pyro.plate("data", 1000, subsample_size=x.shape[0]):
        observe(pyro.sample("z", prior()), x)


def own_subsample_as_index(x: Tensor) -> None:
    with pyro.plate("data", 1000, subsample_size=16) as rows:
        observe(pyro.sample("z", prior()), x[rows])


def loop(x: Tensor) -> None:
    for i in pyro.plate("data", x.shape[0]):
        observe(pyro.sample(f"z{i}", prior()), x[i], f"x{i}")


def observed_under_obs_mask(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(decoded(z), 0.5).to_event(1), obs=x, obs_mask=x[:, 0] > 0)


def latent_under_mask(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        # True all over the example, which says nothing of the next batch.
        with poutine.mask(mask=x[:, 0] > -1e6):
            z = pyro.sample("z", prior())
        observe(z, x)


def masked_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior().mask(x[:, 0] > 0)), x)


def learned_bound(x: Tensor) -> None:
    high = pyro.param("high", torch.tensor(2.0), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Uniform(torch.zeros(LATENTS), high).to_event(1)), x)


def bound_from_data(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Uniform(torch.zeros(LATENTS), x[:, :1].abs() + 1).to_event(1)), x)


def point_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Delta(torch.zeros(LATENTS)).to_event(1)), x)


def angle(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.VonMises(torch.zeros(LATENTS), 1.0).to_event(1)), x)


def on_a_sphere(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.ProjectedNormal(torch.ones(LATENTS))), x)


def raises(x: Tensor) -> None:
    raise KeyError("the user's own")


def wrong_shape(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior()), 0.5).to_event(1), obs=x)


def data_nested_in_a_subsample(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", 9, subsample_size=3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


MODELS: dict[Callable[[Tensor], None], tuple[str, ...]] = {
    without_plate: ("the model has no plate", 'with pyro.plate("data", x.shape[0])'),
    two_candidates: ("several plates", "40", "['a', 'b']", "plate=..."),
    no_latent: ("no latent site", "every pyro.sample has obs=", "leave obs= out"),
    no_latent_in_plate: ("plate 'data' has no latent inside", "['z']", "sample one inside"),
    discrete_latent: ("latent site 'k' is discrete (Bernoulli)", "MixtureSameFamily", "logsumexp", "obs="),
    latent_outside: ("latent site 'w' stands outside plate 'data'", "make it a parameter", "move it inside"),
    observed_in_another_plate: ("observed site 'x' stands in plate 'rows'", "plate 'data'", "put it inside"),
    observed_outside: ("observed site 'x' stands in no plate", "plate 'data'", "put it inside"),
    nothing_observed: ("nothing is observed inside plate 'data'", "obs=x"),
    constant_size: ("no plate has the size of the batch", "40 observations", "'data' of size 50", "x.shape[0]"),
    own_subsample: ("plate 'data' draws a subsample of its own", "x.shape[0]", "subsample=x"),
    own_subsample_as_index: ("plate 'data' draws a subsample of its own", "x.shape[0]", "subsample=x"),
    loop: ("plate 'data' is a Python loop", "with pyro.plate('data', x.shape[0])"),
    observed_under_obs_mask: ("site 'x' has obs_mask=", "with pyro.poutine.mask(mask=mask)"),
    latent_under_mask: ("latent site 'z' stands under a mask", "mask the observed sites only"),
    masked_latent: ("latent site 'z' stands under a mask", "mask the observed sites only"),
    learned_bound: ("latent site 'z' has a bound that is learned (upper_bound)", "fixed support"),
    bound_from_data: ("latent site 'z' differs between observations (upper_bound", "fixed support"),
    point_latent: ("latent site 'z' is a point (Delta)", "pyro.deterministic"),
    angle: ("latent site 'z' is an angle (VonMises)", "torch.atan2"),
    on_a_sphere: ("latent site 'z' cannot be reached one to one", "another support"),
    raises: ("the model failed on x of shape (40, 3) and torch.float32", "KeyError", "the user's own"),
    wrong_shape: ("the model failed on x of shape (40, 3)", "site 'x'"),
    data_nested_in_a_subsample: ("latent site 'z' stands in plate 'parts'", "3 of 9", "let that plate be complete"),
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_models_outside_what_can_be_taken(model: Callable[[Tensor], None]) -> None:
    vi = estimator(model)
    with nothing_changes(), refused(ModelError, *MODELS[model]):
        fit(vi, data())
    assert vi.history.empty
    guide = avi.AmortizedGuide(poutine.block(model, hide_types=["param"]), network())
    with refused(ModelError, *MODELS[model]):
        guide(data())
    pyro.clear_param_store()


def test_two_candidates_and_the_name_of_one() -> None:
    with refused(ModelError, "latent site 'w' stands outside plate 'a'"):
        fit(estimator(two_candidates, plate="a"), data())
    with refused(ModelError, "plate='rows' is not in the model", "'a' of size 40, 'b' of size 40"):
        fit(estimator(two_candidates, plate="rows"), data())


def test_a_nested_plate_as_large_as_the_batch() -> None:
    def model(x: Tensor, *, inner: bool) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            level = 0.0 if inner else pyro.sample("level", dist.Normal(0.0, 1.0))
            with pyro.plate("parts", FEATURES, dim=-1):
                part = pyro.sample("part", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(level + part, 1.0), obs=x)

    # The data plate is the one that has every latent inside.
    vi = fit(estimator(lambda x: model(x, inner=False)), data(FEATURES))
    assert vi.guide.prototype.plate == "data"
    with refused(ModelError, "several plates", "['data', 'parts']", "plate=..."):
        fit(estimator(lambda x: model(x, inner=True)), data(FEATURES))
    assert fit(estimator(lambda x: model(x, inner=True), plate="data"), data(FEATURES)).guide.prototype.plate == "data"


def test_a_long_error_is_cut() -> None:
    def model(x: Tensor) -> None:
        raise ValueError("\n".join(f"line {i}" for i in range(500)))

    with refused(ModelError, "line 0", "line 11", "(488 lines more)") as caught:
        fit(estimator(model), data())
    assert "line 12" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_models_that_are_not_callable(model: Any) -> None:
    with nothing_changes(), refused(ModelError, "model must be a Pyro model, that is, callable", "got"):
        estimator(model)


def fixed_at_sixteen(x: Tensor) -> None:
    with pyro.plate("data", 16):
        observe(pyro.sample("z", prior()), x)


def test_a_plate_of_fixed_size_that_the_first_batch_happens_to_have() -> None:
    vi = estimator(fixed_at_sixteen)
    says = ("plate 'data' has size 16", "batches of any size", "x.shape[0]", "subsample=x")
    with nothing_changes(), refused(ModelError, *says):
        fit(vi, data(), batch_size=16)  # 16, 16, 8
    vi = fit(estimator(fixed_at_sixteen), data(16))
    for call in (vi.evaluate, vi.predict, vi.to_arviz):
        with nothing_changes(vi), refused(ModelError, *says):
            call(data(16), 2, seed=0) if call != vi.evaluate else vi.evaluate(data(16), particles=2, seed=0)


def more_latents_where_large(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        if x.mean() > 5:
            z = z + pyro.sample("w", prior())
        observe(z, x)


def fewer_latents_where_large(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        observe(z if x.mean() > 5 else z + pyro.sample("w", prior()), x)


def unobserved_where_large(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        if x.mean() < 5:
            observe(z, x)


def fails_where_large(x: Tensor) -> None:
    if x.mean() > 5:
        raise KeyError("the user's own")
    good_model(x)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (more_latents_where_large, ("latent site 'w' was not in the model when the guide was made", "poutine.mask")),
        (fewer_latents_where_large, ("did not reach its latent sites ['w']", "poutine.mask")),
        (unobserved_where_large, ("observed nothing in plate 'data'", "poutine.mask")),
        (fails_where_large, ("the model failed on x of shape", "KeyError")),
    ],
)
def test_models_that_change_with_the_data(model: Callable[[Tensor], None], says: tuple[str, ...]) -> None:
    vi = fit(estimator(model), data())
    large = data() + 100
    # The first step of the epoch is a good one: it must be undone.
    with nothing_changes(vi), refused(ModelError, *says):
        fit(vi, DataLoader(TensorDataset(torch.cat([data(), large])), batch_size=ROWS))
    with nothing_changes(vi), refused(ModelError, *says):
        vi.evaluate(large, particles=2, seed=0)
    fit(vi, data())
    assert len(vi.history) == 2


def test_a_parameter_that_comes_late() -> None:
    calls = []

    def model(x: Tensor) -> None:
        calls.append(1)
        if len(calls) > 4:
            pyro.param("late", torch.tensor(1.0))
        good_model(x)

    says = ("the parameter 'late' after its first call", "at each call")
    with nothing_changes(), refused(ModelError, *says):
        fit(estimator(model), data(), epochs=10)


# ----------------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("flow", ("family must be one of", "diagonal", "full", "low_rank", "callable", "got 'flow'")),
        (None, ("family must be one of", "callable (dim, context_features)", "got None")),
        (["full"], ("family must be one of", "got ['full']")),
        (avi.families.Diagonal(LATENTS, 8), ("family must be a name or a callable", "made already", "Diagonal")),
    ],
)
def test_unknown_families(family: Any, says: tuple[str, ...]) -> None:
    with nothing_changes(), refused(FamilyError, *says):
        estimator(family=family)
    with nothing_changes(), refused(FamilyError, *says):
        avi.fit_families(good_model, network(), [family], data(), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        (avi.families.LowRank(5), ("rank must be at most the number of latent dimensions, 2", "rank=5", "'full'")),
        (lambda dim: None, ("failed when it was called as family(dim=2, context_features=8)", "TypeError")),
        (lambda dim, features: 1 / 0, ("failed when it was called", "ZeroDivisionError")),
        (lambda dim, features: nn.Linear(3, 3), ("must return a families.Family", "returned Linear")),
        (lambda dim, features: avi.families.Diagonal(dim + 1, features), ("2 dimensions, the family has 3",)),
        (
            lambda dim, features: avi.families.Diagonal(dim, features, head=False),
            ("head=False", "must return 4 features", "got 8"),
        ),
    ],
)
def test_families_that_cannot_be_made(family: Any, says: tuple[str, ...]) -> None:
    vi = estimator(family=family)
    with nothing_changes(), refused(FamilyError, *says):
        fit(vi, data())
    with refused(NotFittedError, "call fit first"):
        vi.posterior(data())


@pytest.mark.parametrize("rank", NOT_POSITIVE_INTEGERS, ids=repr)
def test_ranks(rank: Any) -> None:
    with refused(OptionError, "rank must be a positive integer", "got"):
        avi.families.LowRank(rank)
    with refused(OptionError, "rank must be a positive integer", "got"):
        avi.families.LowRankFamily(LATENTS, 8, rank=rank)


# --------------------------------------------------------------------------------------------------- before any data


@pytest.mark.parametrize("method", ["posterior", "evaluate", "predict", "to_arviz"])
def test_before_fit(method: str) -> None:
    with nothing_changes(), refused(NotFittedError, "has not seen data yet", "call fit first"):
        getattr(estimator(), method)(data())


def test_more_before_fit(tmp_path: Path) -> None:
    vi = estimator()
    assert vi.history.empty
    with nothing_changes():
        with refused(NotFittedError, "sample_prior", "call fit first"):
            vi.sample_prior(3)
        with refused(NotFittedError, "nothing to save yet", "call fit first"):
            vi.save(tmp_path / "run")
        with refused(NotFittedError, "has not seen data yet", "fit"):
            vi.guide.latents  # noqa: B018
        with refused(NotFittedError, "family is made when the guide first sees data"):
            vi.guide.family  # noqa: B018
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------- loss not finite


class TurnsBad(nn.Module):
    """A model whose likelihood is NaN from a certain training step on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.steps = 0
        self.shift = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> None:
        pyro.module("model", self)
        self.steps += self.training
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior())
            loc = decoded(z) + self.shift
            loc = loc * math.nan if self.steps > self.after else loc
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def test_a_loss_that_is_not_finite_keeps_the_last_good_epoch() -> None:
    # Ten steps an epoch: the 25th is step 5 of epoch 3.
    vi = estimator(TurnsBad(24))
    reference = estimator(TurnsBad(10**9))
    with (
        nothing_changes(),
        refused(
            NonFiniteError,
            "epoch 3, step 5",
            "loss is nan",
            "observed site 'x' is not finite for 4 of 4",
            "before epoch 3",
            "lr",
        ),
    ):
        fit(vi, data(), epochs=5, batch_size=4, lr=0.1)
    fit(reference, data(), epochs=2, batch_size=4, lr=0.1)
    assert len(vi.history) == 2
    for name, value in learned(reference).items():
        assert torch.equal(learned(vi)[name], value), name
    assert torch.isfinite(vi.posterior(data()).mean["z"]).all()
    vi.model.after = 10**9
    fit(vi, data(), epochs=3)
    assert list(vi.history.index) == [1, 2, 3, 4, 5]
    assert np.isfinite(vi.history["elbo"]).all()


def test_a_learning_rate_that_explodes() -> None:
    vi = fit(estimator(), data())
    with (
        nothing_changes(vi),
        refused(NonFiniteError, "training stopped at epoch 2, step", "before epoch 2", "smaller lr"),
    ):
        fit(vi, data(), epochs=20, batch_size=5, lr=1e30)
    # The optimizer has forgotten the huge gradients: with them in its averages it would stand still.
    fit(vi, data(), epochs=30, batch_size=5, lr=0.02)
    assert vi.history["elbo"].iloc[-5:].mean() > vi.history["elbo"].iloc[0] + 1


def momentum(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def test_the_optimizer_forgets_what_led_astray() -> None:
    vi = fit(estimator(), data(), lr=1e-3, optimizer=momentum)
    with nothing_changes(vi), refused(NonFiniteError, "training stopped at epoch"):
        fit(vi, data(), epochs=200, batch_size=2, lr=0.5, optimizer=momentum)
    # With the momentum of the steps that ended far away, the first step would lead there again.
    before = learned(vi)
    fit(vi, data(), lr=1e-3, optimizer=momentum)
    assert all(
        (value - before[name]).abs().max() < 0.5 for name, value in learned(vi).items() if value.is_floating_point()
    )


def test_a_first_fit_that_explodes_is_usable() -> None:
    vi = estimator()
    with nothing_changes(), refused(NonFiniteError, "before epoch 1"):
        fit(vi, data(), batch_size=5, lr=1e30)
    assert torch.isfinite(vi.posterior(data()).mean["z"]).all()
    fit(vi, data())
    assert list(vi.history.index) == [1]


def test_a_gradient_that_is_not_finite() -> None:
    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", prior())
                # The square root has an infinite slope at zero, and a finite value.
                pyro.sample("x", dist.Normal(decoded(z), 0.5 + self.scale.abs().sqrt()).to_event(1), obs=x)

    vi = estimator(Kink())
    with nothing_changes(), refused(NonFiniteError, "epoch 1, step 1", "gradient is not finite for", "scale"):
        fit(vi, data())
    assert float(vi.model.scale.detach()) == 0


# --------------------------------------------------------------------------------------------------------- saved runs


def load(path: Path, model: Any = good_model, hidden: int = 8, **options: Any) -> avi.AmortizedVI:
    return avi.AmortizedVI.load(path, model, network(hidden), **options)


@pytest.fixture
def saved(fitted: avi.AmortizedVI, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "run")
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no description": ("run.json", Path.unlink, ("holds no saved run", "run.json is missing")),
    "no tensors": ("tensors.pt", Path.unlink, ("holds no saved run", "tensors.pt is missing")),
    "half a description": ("run.json", truncate, ("is damaged", "save it again")),
    "another description": ("run.json", lambda path: path.write_text("[]"), ("is damaged", "save it again")),
    "an empty description": ("run.json", lambda path: path.write_text("{}"), ("is damaged", "save it again")),
    "a binary description": (
        "run.json",
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        ("is damaged", "save it again"),
    ),
    "no bytes": ("tensors.pt", lambda path: path.write_bytes(b""), ("is damaged", "save it again")),
    "garbage": ("tensors.pt", lambda path: path.write_bytes(b"garbage" * 99), ("is damaged", "save it again")),
    "half of the tensors": ("tensors.pt", truncate, ("is damaged", "save it again")),
    "other tensors": ("tensors.pt", lambda path: torch.save({"model": {}}, path), ("is damaged", "save it again")),
    "another history": (
        "run.json",
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "history": [{"a": 1}]})),
        ("is damaged", "save it again"),
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_runs(case: str, saved: Path) -> None:
    name, harm, says = DAMAGE[case]
    harm(saved / name)
    encoder = network()
    before = [parameter.clone() for parameter in encoder.parameters()]
    with nothing_changes(), refused(CheckpointError, "run", *says) as caught:
        avi.AmortizedVI.load(saved, good_model, encoder)
    assert "weights_only" not in str(caught.value)  # torch's advice would run what is in the file
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


def renamed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("latent", prior()), x)


def larger(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior(3)), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"hidden": 9},
            ("does not fit encoder and family", "encoder.layers.0.weight has shape (8, 3) in it, (9, 3) here"),
        ),
        ({"model": renamed}, ("latents {'z': [2]}", "{'latent': [2]}", "as they were when it was saved")),
        ({"model": larger}, ("latents {'z': [2]}", "{'z': [3]}")),
        ({"model": TurnsBad(3)}, ("does not fit the model", "shift is missing")),
        ({"family": "full"}, ("does not fit encoder and family", "family_module.head")),
        ({"model": discrete_latent}, ("does not belong to this model", "'k' is discrete")),
    ],
)
def test_runs_of_another_model(options: dict[str, Any], says: tuple[str, ...], saved: Path) -> None:
    with refused(CheckpointError, "the run in", *says):
        load(saved, **options)


def test_a_failed_load_writes_nothing(saved: Path) -> None:
    model, encoder = TurnsBad(3), network()
    before = [parameter.clone() for module in (model, encoder) for parameter in module.parameters()]
    with refused(CheckpointError, "does not fit the model"):
        avi.AmortizedVI.load(saved, model, encoder)
    after = [parameter for module in (model, encoder) for parameter in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_where_there_is_no_run(saved: Path, tmp_path: Path) -> None:
    with refused(CheckpointError, "elsewhere holds no saved run", "run.json is missing"):
        load(tmp_path / "elsewhere")
    with refused(CheckpointError, "is a file", "give the folder"):
        load(saved / "run.json")


def test_a_family_that_has_no_name(tmp_path: Path) -> None:
    fit(estimator(family=avi.families.LowRank(2)), data()).save(tmp_path)
    with refused(CheckpointError, "LowRank(2), a callable", "give it again as family=..."):
        load(tmp_path)
    load(tmp_path, family=avi.families.LowRank(2))


def test_what_can_be_loaded_again(tmp_path: Path) -> None:
    """Runs that were once saved in a way that load refused: doubles, and rates that a schedule made NumPy's."""
    x = data().double()
    double = fit(estimator(), x, dtype=torch.float64)
    double.save(tmp_path / "double")
    loaded = load(tmp_path / "double")
    assert loaded.dtype == torch.float64
    assert torch.equal(loaded.posterior(x).mean["z"], double.posterior(x).mean["z"])

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: np.cos(epoch))

    fit(estimator(), data(), lr_schedule=schedule).save(tmp_path / "schedule")
    load(tmp_path / "schedule")
    shutil.rmtree(tmp_path / "schedule")


# ------------------------------------------------------------------------------------------------------- global state


@pytest.mark.parametrize("validation", [True, False])
def test_validation_switches_come_back(validation: bool) -> None:
    """Whichever way the caller has them, and in the middle of a failing fit too."""
    with pyro.validation_enabled(validation):
        with nothing_changes():
            vi = fit(estimator(), data(), validation_data=data())
            vi.evaluate(data(), particles=2, seed=0)
            vi.to_arviz(data(), 2, seed=0)
        with nothing_changes(), refused(NonFiniteError, "epoch 1, step 1"):
            fit(estimator(TurnsBad(0)), data())


def test_a_double_model_leaves_the_default_type() -> None:
    """A model that writes torch.zeros(2) is a model of the type that it is fitted in."""

    class Decoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(LATENTS, FEATURES)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", prior())
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    model = Decoded()
    with nothing_changes():
        vi = fit(estimator(model), data().double(), dtype=torch.float64)
        drawn = vi.sample_prior(3, seed=0)
    assert drawn["x"].dtype == torch.float64
    assert vi.predict(data().double(), 2, seed=0)["x"].dtype == torch.float64


def test_modes_of_modules_come_back() -> None:
    encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    encoder[1].eval()  # a part that the user has frozen in a mode of its own
    vi = fit(estimator(encoder=encoder), data())
    with nothing_changes(vi):
        vi.evaluate(data(), particles=2, seed=0)
        vi.to_arviz(data(), 2, seed=0)
        vi.predict(data(), 2, seed=0)
        vi.posterior(data()).mean  # noqa: B018
    assert encoder.training
    assert not encoder[1].training
    assert encoder[2].training


def test_a_loader_leaves_the_random_state() -> None:
    """A DataLoader draws a seed from the global generator whenever it begins a pass."""
    loader = DataLoader(TensorDataset(data()), batch_size=8, shuffle=True)
    vi = estimator()
    with nothing_changes():
        fit(vi, loader, validation_data=loader)
        fit(vi, Rows(data()))
        vi.evaluate(DataLoader(TensorDataset(data()), batch_size=8), particles=2, seed=0)


@pytest.mark.parametrize("fits", [[1], {"full": 3}, "full", 7])
def test_compare_takes_fits_only(fits: object) -> None:
    with pytest.raises(
        OptionError, match=r"fits must come from fit_families, or be a dict .* such as \{'full': vi\}; got"
    ):
        avi.compare(fits, data())  # type: ignore[arg-type]
