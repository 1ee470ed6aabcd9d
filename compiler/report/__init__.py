"""``report.json``, ``report.html`` and the terminal summary: what a build found, beside the bundle.

Times, paths and the machine stand here and only here; the bundle holds none of them.
"""
