"""The source model as one float graph: read, checked, brought into one form, its layers counted."""
