"""The tables are whole, and the page that explains them shows them as they are."""

from __future__ import annotations

from pathlib import Path

from fleet.rollout.state import BAD, IN_FLIGHT, RANK, Phase, Status
from fleet.rollout.table import MOVES, STEPS, device_diagram, heard, rollout_diagram

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "rollout.md"


def test_the_page_shows_the_diagrams_of_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    assert f"```mermaid\n{rollout_diagram()}```" in text
    assert f"```mermaid\n{device_diagram()}```" in text
    assert ", ".join(phase.value for phase in RANK) in text


def test_every_status_and_phase_can_be_reached():
    reached, seen = {Status.DRAFT}, set()
    while reached != seen:
        seen = set(reached)
        reached |= {move.after for move in MOVES if move.before in seen}
    assert reached == set(Status)
    assert {Phase.PENDING, *RANK} | {step.after for step in STEPS} == set(Phase)


def test_no_cause_leads_to_two_places():
    moves = [(move.before, move.trigger) for move in MOVES]
    steps = [(before, step.cause) for step in STEPS for before in step.before]
    assert len(set(moves)) == len(moves)
    assert len(set(steps)) == len(steps)


def test_a_halted_rollout_has_no_way_back_to_asking():
    halted = {Status.ABORTED, Status.ROLLING_BACK, Status.RETURN_PAUSED, Status.ROLLED_BACK}
    assert all(move.after in halted for move in MOVES if move.before in halted)


def test_hearing_is_a_maximum_and_bad_news_outranks_good():
    for a in RANK:
        assert heard(a, a) is a
        for b in RANK:
            assert heard(a, b) is heard(b, a)
            assert all(heard(heard(a, b), c) is heard(a, heard(b, c)) for c in RANK)
    assert all(heard(Phase.COMMITTED, phase) is phase for phase in BAD)
    assert all(heard(Phase.COMMITTED, phase) is Phase.COMMITTED for phase in IN_FLIGHT)
