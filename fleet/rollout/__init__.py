"""Gated waves: plan them, preview them, and step them from what devices report."""

from fleet.rollout.engine import step
from fleet.rollout.gate import Gate, parse_gate
from fleet.rollout.plan import Candidate, RolloutPlan, make_plan, make_waves
from fleet.rollout.preview import preview_dict, preview_text
from fleet.rollout.state import RolloutState, decode_state, encode_state, new_rollout

__all__ = [
    "Candidate",
    "Gate",
    "RolloutPlan",
    "RolloutState",
    "decode_state",
    "encode_state",
    "make_plan",
    "make_waves",
    "new_rollout",
    "parse_gate",
    "preview_dict",
    "preview_text",
    "step",
]
