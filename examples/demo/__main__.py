"""``python -m examples.demo [--broker auto|mosquitto|embedded] [--serve]``."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from examples.demo.narrator import Narrator
from examples.demo.processes import DemoError
from examples.demo.story import Story


def main() -> int:
    """Play the story, then let the audit judge it; returns the exit code."""
    parser = argparse.ArgumentParser(description="The whole journey on one machine.")
    parser.add_argument("--broker", choices=["auto", "mosquitto", "embedded"], default="auto")
    parser.add_argument("--serve", action="store_true", help="leave the console up at the end")
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    narrator = Narrator()
    story = Story(out, arguments.broker, narrator)
    try:
        for act in (
            story.compile_models,
            story.start_fleet,
            story.start_devices,
            story.lose_the_broker,
            story.repeat_on_the_wire,
            story.darken_a_camera,
            story.refuse_swapped_weights,
            story.return_from_a_slow_version,
            story.reach_all,
        ):
            act()
        if arguments.serve:
            serve(story, narrator)
        story.end()
        narrator.act("Audit: every figure recomputed from ledgers, journals, store and wire")
        words = ["-m", "examples.demo.audit", out, "--report", arguments.report]
        return subprocess.call([sys.executable, *words])
    except DemoError as error:
        print(f"\nthe demo failed: {error}\nlogs: {out / 'logs'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        story.cast.end()


def serve(story: Story, narrator: Narrator) -> None:
    """Wait until the person has seen enough."""
    narrator.line(f"the console stays up: http://127.0.0.1:{story.console_port}/")
    try:
        input("press Enter to end the demo ")
    except EOFError:
        narrator.line("no terminal to wait on")


if __name__ == "__main__":
    sys.exit(main())
