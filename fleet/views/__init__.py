"""What the service tells people and programs: the result types of ``fleet.service``, by subject.

All are frozen msgspec structs: ``msgspec.to_builtins`` (or ``msgspec.json.encode``) gives what the
HTTP API returns and what ``--json`` prints. Times are unix seconds of the manager's clock unless a
field says otherwise; shares are 0..1; an empty text means "none".
"""
