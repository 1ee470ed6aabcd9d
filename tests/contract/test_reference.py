"""The drift reference: what it accepts and refuses; its bytes and digest are fixed."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import ContractError
from edge_contract.reference import (
    MAX_BINS,
    MAX_FEATURES,
    MAX_REFERENCE_BYTES,
    DriftReference,
    pool_bins,
)

SMALL = DriftReference(
    features=("brightness", "contrast"),
    edges=((10.0, 20.5), ()),
    class_ids=(0, 1, 7),
    counts=((3, 4, 2), (10,), (5, 4, 0, 1)),
    nan_counts=(1, 0, 0),
    n=10,
)


@st.composite
def references(draw: st.DrawFn) -> DriftReference:
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=5))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    edges = [tuple(sorted(draw(st.sets(finite.map(lambda x: 0.0 + x), max_size=8)))) for _ in names]
    ids = tuple(sorted(draw(st.sets(st.integers(0, 5000), max_size=8))))
    n = draw(st.integers(1, 10**6))
    counts, nan_counts = [], []
    for size in [*(len(row) + 1 for row in edges), len(ids) + 1]:
        cuts = sorted(draw(st.lists(st.integers(0, n), min_size=size, max_size=size)))
        counts.append(tuple(b - a for a, b in zip([0, *cuts[:-1]], cuts, strict=True)))
        nan_counts.append(n - cuts[-1])
    counts[-1] = (counts[-1][0] + nan_counts[-1], *counts[-1][1:])
    nan_counts[-1] = 0
    return DriftReference(
        features=tuple(names),
        edges=tuple(edges),
        class_ids=ids,
        counts=tuple(counts),
        nan_counts=tuple(nan_counts),
        n=n,
    )


@given(references())
def test_decoding_gives_back_what_was_encoded(reference: DriftReference) -> None:
    data = reference.encode()
    again = DriftReference.decode(data)
    assert again == reference
    assert again.encode() == data
    assert again.edges_digest == reference.edges_digest


def test_bytes_and_digest_are_those_of_the_test_vector() -> None:
    assert SMALL.edges_digest == (
        "sha256:ad92bd6e85ba98dffafe0b38e3e64ada7a65676d8cfe3a375e83b8e8ab25710c"
    )
    assert SMALL.encode().hex() == (
        "87a8666561747572657392aa6272696768746e657373a8636f6e7472617374a565646765739292cb"
        "4024000000000000cb403480000000000090a9636c6173735f69647393000107a6636f756e747393"
        "93030402910a9405040001aa6e616e5f636f756e747393010000a16e0aa6736368656d6101"
    )


def test_digest_depends_on_names_edges_and_classes_but_not_on_counts() -> None:
    def changed(**changes: object) -> str:
        return msgspec.structs.replace(SMALL, **changes).edges_digest

    assert changed(counts=((4, 3, 2), (10,), (4, 5, 0, 1))) == SMALL.edges_digest
    assert changed(features=("contrast", "brightness")) != SMALL.edges_digest
    assert changed(edges=((10.0, 20.25), ())) != SMALL.edges_digest
    assert changed(class_ids=(0, 1, 8)) != SMALL.edges_digest


def test_negative_zero_is_the_same_edge_as_zero() -> None:
    def with_edge(edge: float) -> str:
        return msgspec.structs.replace(SMALL, edges=((edge, 20.5), ())).edges_digest

    assert with_edge(-0.0) == with_edge(0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges": ((20.5, 10.0), ())}, "strictly increasing"),
        ({"edges": ((10.0, 10.0), ())}, "strictly increasing"),
        ({"edges": ((10.0, math.nan), ())}, "finite"),
        ({"edges": ((10.0, math.inf), ())}, "finite"),
        ({"edges": ((10.0, 20.5),)}, "rows of edges"),
        ({"edges": (tuple(float(i) for i in range(MAX_BINS)), ())}, "at most 63 edges"),
        ({"class_ids": (1, 0, 7)}, "strictly increasing"),
        ({"class_ids": (-1, 0, 7)}, "from 0 up"),
        ({"features": ("a", "a")}, "unique"),
        ({"features": ("a", "predicted_class")}, "unique"),
        ({"features": ("a", "")}, "printable"),
        ({"features": ("a", "x" * 65)}, "printable"),
        ({"features": tuple(f"f{i}" for i in range(MAX_FEATURES + 1))}, "at most 64 features"),
        ({"counts": ((3, 4, 3), (10,), (5, 4, 0, 1))}, "sum to n = 10"),
        ({"counts": ((3, 4, -2), (10,), (5, 4, 0, 1))}, "from 0 up"),
        ({"counts": ((3, 6), (10,), (5, 4, 0, 1))}, "3 counts for 3 bins"),
        ({"counts": ((3, 4, 2), (10,))}, "of 3 features"),
        ({"counts": ((3, 4, 2), (10,), (5, 4, 0, 0)), "nan_counts": (1, 0, 1)}, "has no NaN"),
        ({"n": 0}, "n = 0"),
        ({"n": 11}, "sum to n = 11"),
        ({"schema": 2}, "schema"),
    ],
)
def test_a_malformed_reference_cannot_be_made(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        msgspec.structs.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges": [[20.5, 10.0], []]}, "strictly increasing"),
        ({"edges": [["x"], []]}, "agreed MessagePack"),
        ({"extra": 1}, "agreed MessagePack"),
        ({"n": -1}, "n = -1"),
    ],
)
def test_a_malformed_document_is_refused(changes: dict[str, object], words: str) -> None:
    document = {**msgspec.to_builtins(SMALL), **changes}
    with pytest.raises(ContractError, match=words):
        DriftReference.decode(msgspec.msgpack.encode(document))


def test_an_oversized_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ContractError, match="at most 131072 bytes"):
        DriftReference.decode(b"\xc1" * (MAX_REFERENCE_BYTES + 1))


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_contract_errors(data: bytes) -> None:
    with pytest.raises(ContractError):
        DriftReference.decode(data)


@given(st.integers(0, len(SMALL.encode()) - 1), st.binary(max_size=3))
def test_damaged_bytes_raise_nothing_but_contract_errors(at: int, patch: bytes) -> None:
    data = SMALL.encode()
    with contextlib.suppress(ContractError):
        DriftReference.decode(data[:at] + patch + data[at + 1 :])


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    st.sampled_from([0.02, 0.05, 0.3]),
    st.sampled_from([0.0, 0.01, 0.02]),
)
def test_pooled_cells_are_runs_of_bins_that_hold_enough(
    counts: list[int], least: float, tail: float
) -> None:
    cells = pool_bins(counts, least=least, tail=tail)
    assert len(cells) == len(counts)
    assert cells[0] == 0
    assert all(b - a in (0, 1) for a, b in pairwise(cells))
    held = [0] * (cells[-1] + 1)
    for cell, count in zip(cells, counts, strict=True):
        held[cell] += count
    total = sum(counts)
    small = [cell for cell, count in enumerate(held) if count < least * total]
    ends = {0, cells[-1]} if tail else set()
    assert set(small) <= ends
    assert all(held[cell] <= tail * total for cell in small)


def test_pooling_joins_empty_outer_bins_and_keeps_tails_apart() -> None:
    counts = (0, 0, 5, 95, 400, 0, 400, 95, 5, 0)
    assert pool_bins(counts, least=0.05) == (0, 0, 0, 0, 1, 2, 2, 3, 3, 3)
    assert pool_bins(counts, least=0.05, tail=0.01) == (0, 0, 0, 1, 2, 3, 3, 4, 5, 5)
    assert pool_bins((0, 9, 0), least=0.05, tail=0.01) == (0, 1, 2)
    assert pool_bins((0, 0, 0), least=0.05, tail=0.01) == (0, 0, 0)
