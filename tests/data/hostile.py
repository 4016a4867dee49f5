"""Data that cannot be trusted, at random: sources that misbehave, and values of every type."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from amortvi.data import Batch

FAULTS = [
    "none",
    "none",
    "reset",
    "once",
    "wrapped",
    "len",
    "len",
    "item",
    "ragged",
    "raise",
    "stop",
    "endless",
    "short",
    "shuffle",
    "own",
]
NOT_ITEMS = [
    None,
    "text",
    object(),
    [],
    {},
    1j,
    math.nan,
    float("inf"),
    torch.zeros(0),
    np.array("x"),
    b"bytes",
    [None],
]
ERRORS = [
    IndexError("end"),
    KeyError("k"),
    OSError("disk"),
    ZeroDivisionError(),
    RuntimeError(),
    TypeError("t"),
    StopIteration(),
]


def rows_of(count: int) -> Tensor:
    """Return distinct rows: a position and a number that looks like data."""
    noise = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(count))
    return torch.stack([torch.arange(count), noise], dim=1).float()


@dataclass
class Plan:
    """What a hostile source does, and what it is at worst allowed to give."""

    rows: Tensor
    fault: str
    place: int
    what: Any
    length: int | None

    def item(self, row: int) -> Any:
        if row == self.place and self.fault == "item":
            return self.what
        if row == self.place and self.fault == "raise":
            raise self.what
        return self.rows[row, : 1 if row == self.place and self.fault == "ragged" else 2]


class Sized:
    """A length that may lie, or fail."""

    plan: Plan

    def __len__(self) -> int:
        if self.plan.length is None:
            raise TypeError("no length")
        return self.plan.length


class Stream(Sized, IterableDataset[Any]):
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shared = self.items(list(range(len(plan.rows))))
        self.own = np.random.default_rng()
        self.passes = 0

    def items(self, order: Iterable[int]) -> Iterator[Any]:
        for row in order:
            if self.plan.fault == "stop" and row == self.plan.place:
                return
            yield self.plan.item(row)

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        order = list(range(len(self.plan.rows)))
        if self.plan.fault == "once":
            return self.shared
        if self.plan.fault == "wrapped":
            return (item for item in self.shared)
        if self.plan.fault == "reset":
            self.shared = self.items(order)
            return self
        if self.plan.fault == "shuffle":
            order = torch.randperm(len(order)).tolist()
        if self.plan.fault == "own":
            self.own.shuffle(order)
        if self.plan.fault == "endless":
            return self.items(itertools.cycle(order))
        if self.plan.fault == "short":
            order = order[: len(order) - self.passes // 3]
        return self.items(order)

    def __next__(self) -> Any:
        return next(self.shared)


class Rows(Sized, Dataset[Any]):
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __getitem__(self, row: int) -> Any:
        if row >= len(self.plan.rows) or (self.plan.fault == "stop" and row >= self.plan.place):
            raise IndexError(row)
        return self.plan.item(row)


class Sampler:
    """Positions in order, shuffled, or only once."""

    def __init__(self, count: int, kind: str) -> None:
        self.count, self.kind, self.once = count, kind, iter(range(count))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.count).tolist() if self.kind == "shuffle" else range(self.count)
        return self.once if self.kind == "once" else iter(order)


def hostile_source(rng: random.Random) -> tuple[Any, Tensor | None]:
    """Return a data set or loader, and the rows that it must give if it is accepted; ``None`` if any are right."""
    count = rng.choice([1, 2, 5, 40, 130, 300])
    rows, fault = rows_of(count), rng.choice(FAULTS)
    if fault in ("ragged", "own") and count < 40:
        fault = "none"  # one ragged row is not ragged, and few rows may come in the same order twice
    if fault in ("once", "wrapped") and rng.random() < 0.2:
        rows = torch.zeros(count, 2)
    honest = None if rng.random() < 0.4 else count
    length = rng.choice([0, 1, count - 1, count + 1, 2 * count, 2**40, 2**70, -1, 2.5]) if fault == "len" else honest
    plan = Plan(rows, fault, rng.randrange(count), rng.choice(ERRORS if fault == "raise" else NOT_ITEMS), length)
    is_stream = rng.random() < 0.5
    source: Any = Stream(plan) if is_stream else Rows(plan)
    if is_stream and fault == "stop" and length is None:
        rows = rows[: plan.place]
    if is_stream and fault == "short" and length is None:
        return source, None  # nobody can know how many rows there should be, but each pass must have as many
    expected = rows if is_stream or fault != "len" else rows[: length if isinstance(length, int) else None]
    if rng.random() < 0.3:
        return source, expected
    options: dict[str, Any] = {"batch_size": rng.choice([1, 1, 3, 64, 500])}
    if is_stream and rng.random() < 0.01:
        options |= {"num_workers": 2, "persistent_workers": rng.random() < 0.5}  # which repeat the stream
        return DataLoader(source, **options), expected
    if fault != "shuffle" and rng.random() < 0.1:
        options["drop_last"] = True
        expected = expected[: len(expected) // options["batch_size"] * options["batch_size"]]
    if is_stream:
        return DataLoader(source, **options), expected
    sampler: Any = rng.choice(
        [None, "positions", "iterator", "generator", "once", "shuffle", "again", "batches", "range"]
    )
    positions = range(count)
    made = {
        "positions": list(positions),
        "iterator": iter(positions),
        "generator": (row for row in positions),
        "range": positions,
        **{kind: Sampler(count, kind) for kind in ("once", "shuffle", "again")},
    }
    if sampler == "batches":
        batches = [[row] for row in positions]
        return DataLoader(source, batch_sampler=rng.choice([batches, iter(batches)])), rows
    if sampler == "again" and rng.random() < 0.5:
        return DataLoader(source, batch_sampler=BatchSampler(made["once"], 4, False)), rows
    if sampler is not None:
        options["drop_last"] = sampler != "shuffle" and options.get(
            "drop_last", False
        )  # it would drop other rows each time
        size = options["batch_size"]
        return DataLoader(source, sampler=made[sampler], **options), (
            rows[: count // size * size] if options.get("drop_last") else rows
        )
    shuffle = not options.get("drop_last") and fault != "len" and length is not None and rng.random() < 0.5
    return DataLoader(source, shuffle=shuffle, **options), expected


FORMS: list[Callable[[np.ndarray], Any]] = [
    lambda a: a,
    lambda a: a.tolist(),
    lambda a: list(a),
    lambda a: list(torch.tensor(a)),
    lambda a: a.astype(object),
    lambda a: a.astype(">f8"),
    lambda a: np.asfortranarray(a),
    lambda a: a.astype(np.longdouble),
    lambda a: a.astype(np.uint16),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(bool),
    lambda a: a.astype("M8[s]"),
    lambda a: a.astype("m8[s]"),
    lambda a: a.astype(str),
    lambda a: a.astype(complex),
    lambda a: a[::-1].copy()[::-1],
    lambda a: np.rec.fromarrays(list(a.T)),
    lambda a: np.ma.masked_less(a, 1),
    lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
    lambda a: memoryview(a),
    lambda a: a[0, 0],
    lambda a: np.array(3.0),
    lambda a: pd.DataFrame(a),
    lambda a: pd.DataFrame(a, columns=["a"] * a.shape[1]),
    lambda a: pd.DataFrame(a).astype("Int64"),
    lambda a: pd.DataFrame(a).astype("category"),
    lambda a: pd.DataFrame(a).astype(str),
    lambda a: pd.DataFrame(a).astype("object"),
    lambda a: pd.DataFrame(a).astype(pd.SparseDtype("float")),
    lambda a: pd.DataFrame(a, columns=pd.MultiIndex.from_product([["u"], range(a.shape[1])])),
    lambda a: pd.concat([pd.DataFrame(a, columns=["a"] * a.shape[1]), pd.DataFrame({"a": ["1"] * len(a)})], axis=1),
    lambda a: pd.Series(a[:, 0]),
    lambda a: pd.Index(a[:, 0]),
    lambda a: torch.tensor(a).float().requires_grad_(),
    lambda a: torch.tensor(a).double(),
    lambda a: torch.tensor(a).to(torch.uint32),
    lambda a: torch.tensor(a).to(torch.uint64),
    lambda a: torch.tensor(a).bfloat16(),
    lambda a: torch.tensor(a).bool(),
    lambda a: torch.nn.Parameter(torch.tensor(a).float()),
    lambda a: torch.tensor(a).float().to_sparse(),
    lambda a: torch.tensor(a).float().to("meta"),
    lambda a: torch.quantize_per_tensor(torch.tensor(a).float(), 1.0, 0, torch.quint8),
    lambda a: torch.complex(torch.zeros(a.shape), -torch.tensor(a).float()).conj().imag,
    lambda a: torch.tensor(a[:, :1]).float().expand(-1, 3),
    lambda a: TensorDataset(torch.tensor(a).float()),
    lambda a: (row for row in a),
    lambda a: map(list, a),
    lambda a: set(a[:, 0]),
    lambda a: range(len(a)),
    lambda a: [*a.tolist(), None],
    lambda a: [*a.tolist(), [[]]],
    lambda a: [*a.tolist(), "text"],
    lambda a: [[2**70], [1]],
    lambda a: [a.tolist(), [None]],
    lambda a: np.where(a == a.max(), math.nan, a),
    lambda a: {"values": a}.values(),
    lambda a: Batch((torch.tensor(a),)),
    lambda a: None,
    lambda a: a.dtype,
]


def hostile_value(rng: random.Random) -> Any:
    count = rng.choice([0, 1, 3, 20])
    array = rows_of(count).double().numpy()
    parts = [rng.choice(FORMS) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = [form(array) for form in parts]
        except Exception:  # the form itself does not exist for this array
            return array
    wrap = rng.choice(["alone", "tuple", "dict", "keys", "list", "nested"])
    if wrap == "alone":
        return made[0]
    keys: list[Any] = [1, "1", None] if wrap == "keys" else ["x", "y", "z"]
    each = {"tuple": tuple(made), "list": made, "nested": (made[0], tuple(made)), "keys": None, "dict": None}[wrap]
    return dict(zip(keys, made, strict=False)) if each is None else each
