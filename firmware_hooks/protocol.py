"""Version 1 of the hook protocol as data: which hooks there are, and what each defaults to.

``PROTOCOL.md`` explains it to the people who write hooks; a test holds the two together.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

HOOK_API = 1
VERSION_DIR = f"v{HOOK_API}"
ENVIRONMENT_PREFIX = "WHERRY_"

Word = Literal["ok", "refuse", "later"]
WORDS: tuple[Word, ...] = ("ok", "refuse", "later")


class HookRule(NamedTuple):
    """One hook.

    timeout_s: it is ended after this.
    missing: the answer where the device has no such hook.
    on_timeout: the answer where it did not end in time.
    refuse_means: what a refusal does to the update.
    """

    name: str
    when: str
    timeout_s: float
    missing: Word
    on_timeout: Word
    refuse_means: str


# fmt: off
RULES: dict[str, HookRule] = {rule.name: rule for rule in (
    HookRule("pre-fetch",    "when an order was accepted, before anything is fetched for it",
             60.0,  "ok", "later",  "the update ends as refused"),
    HookRule("pre-install",  "after the files were fetched, before the spare slot is written",
             60.0,  "ok", "later",  "the update ends as refused"),
    HookRule("post-install", "after the self-test, before the new version is switched in",
             120.0, "ok", "refuse", "the update ends as failed; the old version was never left"),
    HookRule("health",       "at the end of a trial that was judged healthy, before the commit",
             60.0,  "ok", "refuse", "the device goes back to the old version"),
    HookRule("post-commit",  "once the new version is the active one: told, not asked",
             60.0,  "ok", "ok",     "nothing: it is logged"),
    HookRule("post-rollback", "once the old version answers again after a trial: told, not asked",
             60.0,  "ok", "ok",     "nothing: it is logged"),
)}
# fmt: on
