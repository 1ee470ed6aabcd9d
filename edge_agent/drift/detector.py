"""The drift detector: a mixture of Shiryaev-Roberts e-detectors over features and bets.

Every sample multiplies each bet's score by its factor, ``S <- (1 + S) * L[bin]``; the detector
alarms when the stake-weighted mean of the scores reaches A.

Theory of operation. While nothing has changed, each factor's mean given the past is at most 1
(see ``edge_agent.drift.bets``), so score minus time is a supermartingale and the mean score at
the first alarm is at most the mean time to it. The score is at least A there, so the average run
length to a false alarm is at least A samples. Source: Shin, Ramdas and Rinaldo, "E-detectors",
arXiv 2203.03532, theorem 2.4.

Conditions of that promise: given the past, each sample's binned law lies in the confidence box
around the reference. Dependence between features of one sample is harmless. Samples that resemble
their predecessors (video at full rate), day and night, and a reference of other data break it.
A counts samples that reach the detector, after thinning.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.drift.bets import BetTable, build_bets
from edge_agent.drift.state import FRESH_STATE_HINT, decode_state
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference

SECONDS_PER_YEAR = 365.25 * 86400

_NAMED_SHARE = 0.1
"""A feature is named in an alarm when it holds this share of the score; the first always is."""


class Alarm(msgspec.Struct, frozen=True):
    """The score reached the threshold.

    Attributes:
        features: (name, share of the score in 0..1) of what moved, largest first.
        score_log: natural logarithm of the score, at least ln A.
        samples_since_reset: samples since the detector started or last alarmed.
        onset_samples_ago: how many samples ago the change began, the last sample being 1: the
            mean over all beginnings, each weighted with its part of the score.
    """

    features: tuple[tuple[str, float], ...]
    score_log: float
    samples_since_reset: int
    onset_samples_ago: int


class _State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    reference_digest: str
    samples: int
    scores: bytes
    onsets: bytes


def alarm_threshold(*, alarms_per_device_year: float, samples_per_s: float) -> float:
    """A: the average run length, in samples, that allows so many false alarms in a year.

    Raises:
        ValueError: either is not positive, or fewer than one sample falls between alarms.
    """
    if not (alarms_per_device_year > 0 and samples_per_s > 0):
        raise ValueError(
            f"expected positive alarms per device-year and samples per second, "
            f"got {alarms_per_device_year} and {samples_per_s}"
        )
    threshold = samples_per_s * SECONDS_PER_YEAR / alarms_per_device_year
    if threshold < 2:
        raise ValueError(
            f"{alarms_per_device_year} alarms a device-year at {samples_per_s} samples a second "
            f"would be an alarm at every sample; lower the former"
        )
    return threshold


class DriftDetector:
    """Watches binned samples against one reference.

    Args:
        reference: bins and counts of the data that is as it should be.
        threshold: A, the average run length in samples; see ``alarm_threshold``.
    """

    def __init__(self, reference: DriftReference, *, threshold: float) -> None:
        self.reference = reference
        self.threshold = threshold
        self.bets: BetTable = build_bets(reference)
        self._digest = reference_digest(reference)
        bets, widest = self.bets.factors.shape
        self._flat_factors = self.bets.factors.ravel()
        self._first_cell = np.arange(bets) * widest
        # S is the sum over beginnings k of the product of factors since k; the same sum with
        # each term times k gives the mean beginning.
        self._scores = np.zeros(bets)
        self._onsets = np.zeros(bets)
        self._samples = 0

    def update(self, bins: npt.NDArray[np.int64]) -> Alarm | None:
        """Takes one sample's bins, int64 ``[F + 1]``, as ``edge_runtime.reference.Binner`` gives.

        After an alarm the detector starts afresh.
        """
        cells = bins.take(self.bets.feature)
        cells += self._first_cell
        factors = self._flat_factors.take(cells)
        self._samples += 1
        self._scores += 1.0
        self._scores *= factors
        self._onsets += self._samples
        self._onsets *= factors
        score = float(self._scores.dot(self.bets.share))
        if score < self.threshold:
            return None
        onset = float(self._onsets.dot(self.bets.share)) / score
        alarm = Alarm(
            features=self._contributions(score),
            score_log=float(np.log(score)),
            samples_since_reset=self._samples,
            onset_samples_ago=self._samples - round(onset) + 1,
        )
        self.reset()
        return alarm

    def reset(self) -> None:
        """Forgets all evidence."""
        self._scores[:] = 0.0
        self._onsets[:] = 0.0
        self._samples = 0

    def _contributions(self, score: float) -> tuple[tuple[str, float], ...]:
        names = self.reference.names
        held = np.bincount(self.bets.feature, self._scores * self.bets.share, len(names)) / score
        order = np.argsort(-held, kind="stable")
        return tuple(
            (names[i], float(held[i]))
            for rank, i in enumerate(order.tolist())
            if rank == 0 or held[i] >= _NAMED_SHARE
        )

    def state_bytes(self) -> bytes:
        """All that ``restore`` needs, about 16 bytes a bet."""
        return msgspec.msgpack.encode(
            _State(
                reference_digest=self._digest,
                samples=self._samples,
                scores=self._scores.astype("<f8").tobytes(),
                onsets=self._onsets.astype("<f8").tobytes(),
            )
        )

    def restore(self, data: bytes) -> None:
        """Goes on where ``state_bytes`` was taken.

        Raises:
            ContractError: damaged, or the state of a detector with another reference.
        """
        state = decode_state(data, _State, "drift detector state")
        if state.reference_digest != self._digest:
            raise ContractError(
                f"drift detector state: expected the state for reference {self._digest}, "
                f"got one for {state.reference_digest}",
                hint=FRESH_STATE_HINT,
            )
        scores, onsets = (self._vector(data) for data in (state.scores, state.onsets))
        if state.samples < 0 or (onsets > scores * state.samples * (1 + 1e-9)).any():
            raise ContractError(
                f"drift detector state: expected a change that began within the "
                f"{state.samples} samples; the state is damaged",
                hint=FRESH_STATE_HINT,
            )
        self._scores[:] = scores
        self._onsets[:] = onsets
        self._samples = state.samples

    def _vector(self, data: bytes) -> npt.NDArray[np.float64]:
        if len(data) != self._scores.nbytes:
            raise ContractError(
                f"drift detector state: expected {self._scores.nbytes} bytes of scores, "
                f"got {len(data)}",
                hint=FRESH_STATE_HINT,
            )
        values = np.frombuffer(data, "<f8")
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ContractError(
                "drift detector state: expected finite scores from 0 up; the state is damaged",
                hint=FRESH_STATE_HINT,
            )
        return values


def reference_digest(reference: DriftReference) -> str:
    """``sha256:<hex>`` of a reference with its counts: what a detector's state belongs to."""
    return "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
