"""``edge-agent``: verify, install, infer, spool and report on the device."""
