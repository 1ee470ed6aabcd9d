"""A real agent on a metered link: it stays below its budget, says what waits, and never refills."""

from __future__ import annotations

from pathlib import Path

from examples.digits.frames import write_frames
from tests.agent.conftest import Bench
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, wait_until

LIMIT_BYTES = 30_000


def test_a_metered_device_stops_talking_in_time_and_stays_known(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "device", fleet.repository)
    bench.home.mkdir()
    (bench.home / "root.json").write_bytes(fleet.repository.root_bytes())
    write_frames(bench.home / "frames", count=60, seed=1)
    mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {fleet.port}\n'
    bench.configure(
        f"{mqtt}[link]\nmetered = true\nbudget_mb_per_day = {LIMIT_BYTES / 1e6}\n", fleet=FLEET
    )
    assert bench.install(bench.bundle()).returncode == 0
    process = bench.start()
    try:
        wait_until(lambda: [v for v in fleet.service.devices() if v.online], 20)
        waiting = bench.wait(
            "telemetry waits",
            lambda: "telemetry" in (status := bench.status())["budget"]["waiting"] and status,
            timeout_s=60,
        )
        budget = waiting["budget"]
        assert 0.8 * LIMIT_BYTES <= budget["spent_bytes"] <= LIMIT_BYTES
        assert waiting["link"]["up"]
        lines = bench.agent("status", "--state-dir", bench.state).stdout
        assert "0.03 MB in 24 hours of running" in lines
        assert "telemetry" in lines.split("budget", 1)[1]
        bench.stop(process)
        # The telemetry that was counted did come.
        assert fleet.service.health().records_count > 0
        process = bench.start()
        bench.wait("the agent is back", lambda: bench.status().get("link", {}).get("up"))
        assert bench.status()["budget"]["spent_bytes"] >= budget["spent_bytes"]
        (view,) = fleet.service.devices()
        assert wait_until(lambda: fleet.service.device(view.device).device.online, 10)
    finally:
        process.kill()
        process.wait()
