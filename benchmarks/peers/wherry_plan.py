"""wherry's plan search on the samples that the peers get. Run by ``benchmarks/quantize.py``.

A quarter of them is set aside for choosing, as ``edge-compile build`` does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from job import measure, out_path, read_job, samples

from compiler.calibrate.ranges import collect_stats
from compiler.emit.onnx_qdq import activations_for, emit_onnx
from compiler.graph.floatgraph import normalise
from compiler.graph.layers import list_layers
from compiler.graph.source import load_source
from compiler.plan.fidelity import tails_of
from compiler.plan.search import SAMPLES_MAX, Search, Trial
from compiler.plan.simulate import batch_for
from compiler.progress import silent
from compiler.proof.select import rank_trials
from compiler.split import selection_split
from edge_runtime.onnx_session import session_options


def main() -> None:
    job = read_job()
    x = samples(job)
    scheme = job["scheme"]

    def answers(model: bytes, scheme: str, rows: np.ndarray) -> np.ndarray:
        session = ort.InferenceSession(
            model, session_options(scheme), providers=["CPUExecutionProvider"]
        )
        return np.concatenate([session.run(None, {job["input"]: row[None]})[0] for row in rows])

    def work() -> None:
        graph = normalise(load_source(Path(job["model"])))
        macs = sum(layer.macs for layer in list_layers(graph, x[:1]))
        fit, held = selection_split(len(x))
        rows = np.unique(np.linspace(0, len(fit) - 1, min(len(fit), SAMPLES_MAX)).astype(int))
        search = Search(
            model=graph.prepared,
            collect=lambda model, wanted: collect_stats(
                replace(graph, prepared=model), lambda: (x[row][None] for row in fit), wanted
            ),
            x=x[fit][rows],
            batch=batch_for(macs) if graph.batch_is_free else 1,
            macs=macs,
            activations=activations_for(scheme),
            effort=job["recipe"],
        )

        def selection(trial: Trial) -> np.ndarray:
            return answers(emit_onnx(trial.plan, scheme), scheme, x[held])

        floating = answers(graph.model.SerializeToString(), "float32", x[held])
        heads = tails_of(graph.prepared).heads
        best = rank_trials(search.trials(silent), floating, selection, heads, [floating.shape[1]])[
            0
        ]
        out_path(job).write_bytes(emit_onnx(best.trial.plan, scheme))

    measure(work)


if __name__ == "__main__":
    main()
