"""Draws the update machine from its table, for ``docs/explanation/update.md``.

``python -m edge_agent.update.diagram`` prints both blocks; a test holds the document to them.
"""

from __future__ import annotations

from edge_agent.update.events import DeadlinePassed, Held, Released, Restarted, Superseded
from edge_agent.update.machine import ROWS
from edge_agent.update.state import Stage

ANY_TIME = (Superseded, Restarted, DeadlinePassed, Held, Released)
"""Events that every stage has a row for; they stand in the second block, not in the drawing."""


def draw() -> str:
    """A mermaid state diagram of the straight ways: orders and the answers of each stage."""
    labels: dict[tuple[Stage, Stage], list[str]] = {}
    for row in ROWS:
        for target in row.to:
            returns = target is Stage.PRE_FETCH and row.stage is not Stage.IDLE
            if row.event not in ANY_TIME and target is not row.stage and not returns:
                labels.setdefault((row.stage, target), []).append(row.event.__name__)
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.IDLE.name}"]
    for (stage, target), events in labels.items():
        lines.append(f"    {stage.name} --> {target.name}: {', '.join(events)}")
    return "\n".join(lines)


def tabulate() -> str:
    """A Markdown table: where each stage may go on each event that may come at any time."""
    head = "| stage | " + " | ".join(event.__name__ for event in ANY_TIME) + " |"
    lines = [head, "|---" * (len(ANY_TIME) + 1) + "|"]
    for stage in Stage:
        cells = []
        for event in ANY_TIME:
            (row,) = [r for r in ROWS if r.stage is stage and r.event is event]
            cells.append(", ".join("stays" if t is stage else t.name for t in row.to))
        lines.append(f"| {stage.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"```mermaid\n{draw()}\n```\n\n{tabulate()}")
