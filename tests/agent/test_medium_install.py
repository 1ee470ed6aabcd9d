"""Applying a medium while disks fill, clients give up and strangers hand in bundles."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_agent.api import Request
from edge_agent.errors import AgentError
from edge_agent.medium_install import MediumCopied, MediumInstall
from edge_agent.orders import OrderDesk
from edge_agent.transfer.fetch import BundleFetcher, import_bundle
from edge_agent.trust.media import AcceptedMedia
from edge_agent.update.events import Event
from edge_agent.update.state import UpdateState
from edge_contract.digest import hex_of
from edge_contract.errors import TrustError
from edge_contract.health import HealthSpec
from edge_contract.layout import BundleDir
from edge_contract.media import MediaSet
from tests.trust.bundle_maker import make_bundle

NO_MEDIUM = cast(MediaSet, SimpleNamespace())


class Desk:
    """An order desk that refuses every medium with ``error``."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[MediaSet] = []

    def medium(self, media: MediaSet, _: object) -> AcceptedMedia:
        self.asked.append(media)
        raise self.error


class Fetcher:
    """A blob store that says when it was cleaned."""

    def __init__(self) -> None:
        self.cleaned_count = 0

    def clean(self) -> None:
        self.cleaned_count += 1

    def import_begins(self) -> None:
        return

    def import_ended(self) -> None:
        return


class Aside:
    """Work that is kept and not done."""

    def start(self, work: Callable[[], Event | None]) -> None:
        pass


def installer(desk: Desk, fetcher: Fetcher) -> MediumInstall:
    def no_order(event: Event) -> None:
        raise AssertionError(f"ordered {event}")

    return MediumInstall(
        "cam-1",
        cast(OrderDesk, desk),
        cast(BundleFetcher, fetcher),
        Aside(),
        post=lambda event: None,
        order=no_order,
        state=UpdateState,
        health=HealthSpec(),
        status=lambda: ("", b""),
        facts=lambda: ("", b""),
        sign=lambda topic, payload: "",
    )


def last(request: Request) -> dict[str, Any]:
    replies: Iterator[dict[str, Any]] = request.replies()
    return next(replies)


def test_a_full_disk_answers_the_client_and_does_not_turn_the_next_one_away() -> None:
    install = installer(Desk(OSError(errno.ENOSPC, "No space left on device")), Fetcher())
    first = Request({"medium": "/stick"})
    install.begin(first)
    install.copied(MediumCopied(first, NO_MEDIUM, "", None))
    reply = last(first)
    assert reply["done"]
    assert "No space left" in reply["error"]
    install.begin(Request({"medium": "/stick"}))


def test_what_nobody_approved_is_not_kept() -> None:
    fetcher = Fetcher()
    install = installer(Desk(TrustError("not approved")), fetcher)
    request = Request({"medium": "/stick"})
    install.begin(request)
    install.copied(MediumCopied(request, NO_MEDIUM, "", None))
    assert last(request)["error"] == "not approved"
    assert fetcher.cleaned_count == 1


def test_a_medium_that_was_given_up_does_not_take_the_place_of_the_next() -> None:
    desk = Desk(TrustError("not approved"))
    install = installer(desk, Fetcher())
    first, second = Request({"medium": "/one"}), Request({"medium": "/two"})
    install.begin(first)
    first.given_up = True
    install.begin(second)
    install.copied(MediumCopied(first, NO_MEDIUM, "", None))
    assert desk.asked == [], "its sequence is not spent, its bundle not ordered"
    install.copied(MediumCopied(second, NO_MEDIUM, "", None))
    assert last(second)["error"] == "not approved"


def test_two_media_at_once_are_one_and_a_refusal() -> None:
    install = installer(Desk(TrustError("")), Fetcher())
    install.begin(Request({"medium": "/one"}))
    with pytest.raises(AgentError, match="another medium is being applied"):
        install.begin(Request({"medium": "/two"}))


def test_a_bundle_that_does_not_fit_is_refused_before_a_byte_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "bundle", version="1.0.0")
    store = tmp_path / "blobs"
    store.mkdir()
    real = os.statvfs(store)
    full = SimpleNamespace(f_bavail=1, f_frsize=real.f_frsize)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: full)
        with pytest.raises(AgentError, match="no space left for the update"):
            import_bundle(bundle, lambda digest: store / hex_of(digest))
    assert list(store.iterdir()) == []
    import_bundle(bundle, lambda digest: store / hex_of(digest))
    assert sorted(p.name for p in store.iterdir()) == sorted(
        {hex_of(item.digest) for item in BundleDir(bundle.path).descriptors()}
    )
