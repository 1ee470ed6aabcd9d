"""Files from plans: one emitter a format."""
