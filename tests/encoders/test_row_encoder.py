"""Sets and sequences: only the rows that count have an effect, and all of them do."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.encoders import DeepSets, Recurrent, SetAttention
from amortvi.errors import EncoderError, OptionError
from tests.encoders.cases import ROW_ENCODERS, SETS, made, padded, ragged

each_encoder = pytest.mark.parametrize("name", ROW_ENCODERS)
each_set_encoder = pytest.mark.parametrize("name", SETS)


def close(found: Tensor, expected: Tensor) -> None:
    """Assert equality up to rounding, which may change where sums have another number of terms."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_encoder
def test_padding_has_no_effect(name: str) -> None:
    encoder = made(name, 2)
    context = encoder(*padded())
    assert context.shape == (4, encoder.out_features)
    for length in (6, 20):
        close(encoder(*padded(length)), context)
    for i, rows in enumerate(ragged()):
        close(encoder(rows.unsqueeze(0)), context[i : i + 1])  # without a mask, all rows count


@each_encoder
@pytest.mark.parametrize("fill", [7.0, torch.inf, torch.nan])
def test_what_fills_the_padding_has_no_effect(name: str, fill: float) -> None:
    """Nor on the gradient, bit for bit."""
    encoder, (x, mask) = made(name, 2), padded()
    gradients = []
    for values in (x, x.masked_fill(~mask.unsqueeze(2), fill)):
        encoder.zero_grad()
        context = encoder(values, mask)
        context.square().sum().backward()
        gradients.append([context.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", [name for name in ROW_ENCODERS if name != "max"])
def test_every_row_that_counts_has_an_effect(name: str) -> None:
    x, mask = padded()
    x.requires_grad_()
    made(name, 2)(x, mask).sum().backward()
    assert torch.equal((x.grad != 0).any(2), mask)


@each_set_encoder
def test_the_order_of_a_set_has_no_effect(name: str) -> None:
    encoder, (x, mask) = made(name, 2), padded(7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    close(encoder(x[:, order], mask[:, order]), encoder(x, mask))


@each_set_encoder
def test_the_number_of_elements_reaches_the_context(name: str) -> None:
    """A set in which each element stands twice has the same mean, maximum and attention."""
    encoder, (x, mask) = made(name, 2), padded()
    twice = encoder(torch.cat([x, x], dim=1), torch.cat([mask, mask], dim=1))
    assert ((twice - encoder(x, mask)).abs().amax(1) > 1e-3).all()


@each_encoder
def test_empty_observations_have_a_finite_context(name: str) -> None:
    """Which does not depend on the length of the padding, nor has it an undefined gradient."""
    encoder = made(name, 1)
    found = []
    for length in (3, 8):
        x = torch.randn(2, length, dtype=torch.float64, requires_grad=True)
        context = encoder(x, torch.zeros(2, length, dtype=torch.bool))
        context.sum().backward()
        assert (x.grad == 0).all()
        assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
        found.append(context)
    close(*found)


@each_encoder
def test_layouts_are_equivalent(name: str) -> None:
    encoder, (x, mask) = made(name, 1), padded(features=1)
    context = encoder(x, mask)
    close(encoder(x.squeeze(2), mask), context)
    close(encoder(x=x, mask=mask), context)
    close(encoder(y=x.squeeze(2), seen=mask), context)
    matrices = torch.randn(4, 5, 2, 3, dtype=torch.float64)
    close(made(name, 6)(matrices, mask), made(name, 6)(matrices.flatten(2), mask))
    counts = torch.arange(20).reshape(4, 5)
    close(encoder(counts, mask), encoder(counts.double(), mask))


@each_encoder
def test_masks_of_single_elements(name: str) -> None:
    """The encoder reads them; rows of which nothing was observed do not count."""
    encoder, (x, mask) = made(name, 4), padded()
    observed = mask.unsqueeze(2) & (x > -0.5)
    assert (observed.any(2) != mask).any()
    context = encoder(x, observed)
    as_features = torch.cat([x.masked_fill(~observed, 0.0), observed.double()], dim=2)
    close(context, encoder(as_features, observed.any(2)))
    assert torch.equal(encoder(x.masked_fill(~observed, torch.nan), observed), context)


@each_encoder
def test_other_arguments_reach_the_context(name: str) -> None:
    encoder, (x, mask) = made(name, 2, other_features=3), padded()
    label, covariates = torch.arange(4), torch.randn(4, 2, dtype=torch.float64)
    context = encoder(x, mask, label, covariates)
    together = torch.cat([label.double().unsqueeze(1), covariates], dim=1)
    close(encoder(x, mask, together), context)
    close(encoder(x, together)[2:3], encoder(x, torch.ones_like(mask), together)[2:3])
    changed = (encoder(x, mask, label + 1, covariates) - context).abs().amax(1)
    assert (changed > 1e-4).all()


@each_encoder
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(4,)], r"values of shape \(B, L\) or \(B, L, features\); got inputs of shape \[\(4,\)\]"),
        ([(4, 5, 3)], r"in_features=2 elements per row .*; got 3 and 0, from inputs of shape \[\(4, 5, 3\)\]"),
        ([(4, 5, 2), (4, 5)], r"other_features=0 .*; got 2 and 5, .* A mask must be boolean"),
        ([(4, 5, 2), (4, 5, 1)], r"other_features=0 .*; got 2 and 5"),
    ],
)
def test_other_shapes_are_refused(name: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(name, 2)(*map(torch.zeros, shapes))
    for shape in ((4, 6), (4,), (4, 5, 3)):
        with pytest.raises(ValueError, match=r"a mask of shape \(4, 5\) \(rows\) or \(4, 5, 2\) \(elements\)"):
            made(name, 2)(torch.zeros(4, 5, 2), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepSets(0), "in_features must be a positive integer; got 0"),
        (lambda: DeepSets(1, other_features=-1), "other_features must be a nonnegative integer; got -1"),
        (lambda: DeepSets(1, pooling="median"), "pooling must be 'mean', 'sum' or 'max'; got 'median'"),
        (lambda: DeepSets(1, 8), r"hidden must be a sequence of widths"),
        (lambda: SetAttention(1, [6], heads=4), "heads must divide the last width of hidden, 6; got 4"),
        (lambda: SetAttention(1, heads=0), "heads must be a positive integer; got 0"),
        (lambda: Recurrent(1, []), r"hidden must hold at least one width, such as \[64\]"),
        (lambda: Recurrent(1, [0]), "each width in hidden must be a positive integer; got 0"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def mean_and_slope(x: Tensor, mask: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = z[:, :1] + z[:, 1:] * x[..., 0]
        pyro.sample("y", dist.Normal(mean, 0.5).mask(mask).to_event(1), obs=x[..., 1])


@each_encoder
def test_failures_in_a_fit_are_encoder_errors(name: str) -> None:
    vi = avi.AmortizedVI(mean_and_slope, made(name, 3).float())
    x, mask = padded()
    with pytest.raises(EncoderError, match=r"failed on x\[0\] of shape \(4, 5, 2\) .* in_features=3"):
        vi.fit((x.float(), mask))


@each_encoder
def test_padding_has_no_effect_on_a_fit(name: str) -> None:
    """With standardized inputs, whose statistics do not count it."""

    def fit(x: avi.Padded) -> avi.AmortizedVI:
        vi = avi.AmortizedVI(mean_and_slope, made(name, 2))
        return vi.fit(x, epochs=30, batch_size=4, seed=0, optimizer=torch.optim.SGD, lr=1e-3, progress=False)

    shift = torch.tensor([100.0, -3.0], dtype=torch.float64)
    short, long = (avi.pad([rows + shift for rows in ragged()], length=length) for length in (5, 9))
    one, other = fit(short), fit(long)
    for found, expected in zip(one.posterior(short).std.values(), other.posterior(long).std.values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert one.guide.network.standardization(one.example).args[0].abs().max() < 3
