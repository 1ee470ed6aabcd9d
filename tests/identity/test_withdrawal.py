"""An order that the fleet takes back is given up, where nothing has to be undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.update.effects import Cancel
from edge_agent.update.events import Ordered, Withdrawn
from edge_agent.update.machine import step
from edge_agent.update.order import Origin
from edge_agent.update.state import Stage, UpdateState
from edge_contract.errors import TrustError
from edge_contract.signing import sign_message
from tests.agent.test_order_desk import ready_desk
from tests.identity.secure_fleet import FLEET
from tests.trust.tuf_simulator import Publisher
from tests.update.bundles import make_version

EARLY = (
    Stage.PRE_FETCH,
    Stage.FETCHING,
    Stage.PRE_INSTALL,
    Stage.STAGING,
    Stage.SELF_TEST,
    Stage.POST_INSTALL,
)
BACK = Withdrawn("the fleet took its order back")


@pytest.mark.parametrize("stage", EARLY)
def test_before_the_switch_a_withdrawn_order_ends(stage: Stage) -> None:
    order = make_version("1.0.0").order(1)
    state, effects = step(
        UpdateState(stage=stage, order=order, seen=order.key, obeyed=order.key), BACK
    )
    assert state.stage is Stage.IDLE
    assert state.ended is not None
    assert state.ended.reason == BACK.reason
    assert any(isinstance(effect, Cancel) for effect in effects)
    # The same order, seen again on the wire, does not begin it again; a new one does.
    assert step(state, Ordered(order))[0].stage is Stage.IDLE
    assert step(state, Ordered(make_version("1.0.0").order(2)))[0].stage is Stage.PRE_FETCH


@pytest.mark.parametrize("stage", [Stage.SWITCHING, Stage.TRIAL, Stage.COMMITTING])
def test_after_the_switch_the_trial_decides(stage: Stage) -> None:
    order = make_version("1.0.0").order(1)
    state = UpdateState(stage=stage, order=order, seen=order.key, obeyed=order.key)
    assert step(state, BACK) == (state, ())


@pytest.mark.parametrize("origin", ["file", "medium"])
def test_what_was_ordered_by_hand_was_never_the_fleets(origin: Origin) -> None:
    order = make_version("1.0.0").order(1, origin=origin)
    state = UpdateState(stage=Stage.FETCHING, order=order, seen=order.key, obeyed=order.key)
    assert step(state, BACK) == (state, ())
    waits = UpdateState(stage=Stage.IDLE, waiting=order, seen=order.key, obeyed=order.key)
    assert step(waits, BACK) == (waits, ())


def test_only_the_director_takes_an_order_back(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.approve("1.0.0")
    desk = ready_desk(tmp_path, publisher)
    topic = f"edge/v1/{FLEET}/cam-1/desired/model"
    desk.desired(publisher.order(), 0.0)
    signature = sign_message(publisher.keys["director"][0], topic, b"")
    for wrong in ("", sign_message(publisher.keys["targets"][0], topic, b"")):
        with pytest.raises(TrustError):
            desk.verify_director(topic, b"", wrong)
    assert desk.withdrawals_count == 0
    desk.verify_director(topic, b"", signature)
    desk.withdrawn()
    assert desk.decide(1.0) is None
