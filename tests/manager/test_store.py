"""The store: what the migrations build is what the code expects, on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, create_mock_engine, update

from edge_contract.errors import ExitCode
from edge_contract.health import HealthSpec
from fleet.errors import FleetError
from fleet.rollout import Candidate, encode_state, make_plan, new_rollout, step
from fleet.rollout.events import Start
from fleet.store import journal, open_store
from fleet.store.devices import get_device
from fleet.store.rollouts import newest_rollouts
from fleet.store.schema import meta, metadata


def test_the_migrations_build_the_schema(tmp_path: Path) -> None:
    store = open_store(tmp_path / "fleet.db", fleet="home")
    with store.read() as tx:
        assert compare_metadata(MigrationContext.configure(tx), metadata) == []
        assert tx.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert tx.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"


def test_a_store_of_the_release_before_keeps_its_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    config = Config()
    config.set_main_option("script_location", "fleet.store:migrations")
    engine = create_engine(f"sqlite:///{path}")
    plan = make_plan(
        *("r1", "digits", "1.0.0", "sha256:" + "a" * 64),
        [Candidate("cam-1", "pi4", "digits", desired_epoch=3, desired_seq=7)],
        hardware=["pi4"],
    )
    state, _ = step(new_rollout(plan), Start(now_s=1.0, who="ann"))
    old = msgspec.json.decode(encode_state(state))
    assert old["devices"]["cam-1"].pop("number") == [3, 7]
    old["devices"]["cam-1"] |= {"seq": 7, "floor": 8}
    del old["plan"]["devices"][0]["desired_epoch"]
    with engine.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0004")
        tx.exec_driver_sql(
            "INSERT INTO devices VALUES ('cam-1', '00', 'pi4', 'digits', '1', 0, 0, 1, '', '', 0,"
            " 0, 7, 3, 7, NULL, NULL, NULL, NULL)"
        )
        tx.exec_driver_sql(
            "INSERT INTO orders VALUES ('cam-1', 7, 3, 'r0', 'digits', '0.9', '', x'00', 0, 0)"
        )
        tx.exec_driver_sql(
            "INSERT INTO rollouts VALUES (1, 'r1', 'digits', '1.0.0', '', 'running', ?, ?, ?, 0,"
            " 'ann', 0)",
            (json.dumps(old["plan"]), msgspec.json.encode(HealthSpec()), json.dumps(old)),
        )
    engine.dispose()
    store = open_store(path, fleet="home")
    with store.read() as tx:
        assert newest_rollouts(tx)[0].state == state
        row = get_device(tx, "cam-1")
        assert row is not None
        assert (row.desired, row.unheard) == ((3, 7), False)


def test_every_table_can_be_made_on_postgresql() -> None:
    made: list[str] = []
    engine = create_mock_engine(
        "postgresql+psycopg://", lambda sql, *_: made.append(str(sql.compile(engine)))
    )
    metadata.create_all(engine, checkfirst=False)
    tables = [text for text in made if "CREATE TABLE" in text]
    assert len(tables) == len(metadata.tables)
    assert sum("BIGSERIAL" in text for text in tables) == 4


def test_a_store_of_another_fleet_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "fleet.db", fleet="home").close()
    with pytest.raises(FleetError, match="belongs to the fleet 'home'") as caught:
        open_store(tmp_path / "fleet.db", fleet="away")
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(FleetError, match="cannot be opened as a database"):
        open_store(path, fleet="home")
    assert path.read_bytes().startswith(b"not a database")


def test_a_store_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "fleet.db", fleet="home")
    with store.write() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(FleetError, match="a release that this one does not know"):
        open_store(tmp_path / "fleet.db", fleet="home")


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "fleet.db", fleet="home")
    with pytest.raises(RuntimeError), store.write() as tx:  # noqa: PT012
        tx.execute(update(meta).values(value="broken"))
        raise RuntimeError
    open_store(tmp_path / "fleet.db", fleet="home").close()


def test_findings_are_counted_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FINDINGS_MAX", 10)
    store = open_store(tmp_path / "fleet.db", fleet="home")
    with store.write() as tx:
        for n in range(30):
            for _ in range(2):
                journal.add_finding(
                    tx, device=f"ghost-{n}", kind="k", cls="c", detail="d", now_s=float(n)
                )
        found = journal.read_findings(tx)
    assert [row.device for row in found] == [f"ghost-{n}" for n in range(29, 19, -1)]
    assert {row.copies for row in found} == {2}
