"""The output directory: replaced as a whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compiler.bundle.outdir import check_output, staging
from compiler.errors import OutputError


def make_bundle(path: Path, mark: str) -> None:
    path.mkdir(parents=True)
    (path / "oci-layout").write_text(mark)


def contents(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): p.read_text() for p in out.rglob("*") if p.is_file()}


def build(out: Path, mark: str, *, bundle: bool = True) -> bool:
    with staging(out) as stage:
        if bundle:
            make_bundle(stage.bundle, mark)
        return stage.publish({"report.json": mark.encode(), "report.html": mark.encode()})


def test_a_second_build_replaces_everything_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert build(out, "one") is False
    (out / "notes.txt").write_text("mine")
    assert build(out, "two") is False
    assert contents(out) == {
        "bundle/oci-layout": "two",
        "report.json": "two",
        "report.html": "two",
        "notes.txt": "mine",
    }


def test_a_build_without_a_bundle_takes_the_old_one_away(tmp_path: Path) -> None:
    build(tmp_path / "out", "one")
    assert build(tmp_path / "out", "two", bundle=False) is True
    assert contents(tmp_path / "out") == {"report.json": "two", "report.html": "two"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_the_old_result(
    tmp_path: Path, error: type[BaseException]
) -> None:
    build(tmp_path / "out", "one")

    def interrupted() -> None:
        with staging(tmp_path / "out") as stage:
            make_bundle(stage.bundle, "two")
            raise error

    with pytest.raises(error):
        interrupted()
    assert set(contents(tmp_path / "out").values()) == {"one"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "bundle",
        "report.html",
        "report.json",
    ]


def test_an_interrupted_first_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()


def test_an_interrupt_between_the_renames_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(out, "one")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == out / "bundle" and (self / "oci-layout").read_text() == "two":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(out, "two")
    assert contents(out) == {"bundle/oci-layout": "one"}


def test_a_full_disk_is_told_and_leaves_the_old_result(tmp_path: Path) -> None:
    build(tmp_path / "out", "one")
    with pytest.raises(OutputError, match="No space left"), staging(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert set(contents(tmp_path / "out").values()) == {"one"}


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "photos.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a bundle"):
        check_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "file")


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot write to --out"),
        staging(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("place", ["file/x", "file/x/y"])
def test_a_directory_that_cannot_be_made_is_told_before_any_work(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to --out"):
        check_output(tmp_path / place)


def test_asking_whether_a_directory_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_builds_that_end_at_the_same_moment_leave_one_of_them_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, "first")
    failed: list[BaseException] = []

    def repeat(mark: str) -> None:
        try:
            for _ in range(20):
                build(out, mark)
        except OutputError as error:
            failed.append(error)

    others = [threading.Thread(target=repeat, args=(mark,)) for mark in ("a", "b", "c")]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert failed == []
    assert set(contents(out)) == {"bundle/oci-layout", "report.json", "report.html"}
    assert len(set(contents(out).values())) == 1
