"""The benchmarks in small: what they measure at full size holds here, too."""

from __future__ import annotations

import os

from benchmarks import delta, transfer
from tests.programs import leave_out, require_program


def test_a_link_that_is_cut_costs_little() -> None:
    require_program("mosquitto")
    row = transfer.cuts(4_000_000, 5, seed=3)
    assert row["cuts_count"] == 5
    checks = transfer.criteria({"cuts": row})
    assert all(checks.values()), checks


def test_devices_at_once_are_served_fairly_by_a_small_manager() -> None:
    require_program("mosquitto")
    row = transfer.crowd(20, 200_000, listening=True)
    checks = transfer.criteria({"crowd": row})
    assert all(checks.values()), checks
    assert row["copies_sent"] < 15, "a wave is sent to all at once"


def test_telemetry_gets_through_beside_a_model_on_a_bad_link() -> None:
    require_program("mosquitto")
    require_program("iptables")
    require_program("tc")
    if os.geteuid() or not os.path.exists("/dev/net/tun"):  # noqa: PTH110
        leave_out("needs root and /dev/net/tun for network namespaces")
    row = transfer.link(60_000, rate_kbit_s=256, loss=0.03, delay_ms=100)
    checks = transfer.criteria({"link": row})
    assert all(checks.values()), checks
    assert row["lasted_s"] < 4 * row["least_s"] + 10


def test_deltas_of_models_that_were_fine_tuned_are_small() -> None:
    checks = delta.criteria(delta.run(searched=False))
    assert all(checks.values()), checks
