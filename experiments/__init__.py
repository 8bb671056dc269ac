"""Studies: one module each, a pure function from the records a manifest names to a table or a figure (torch-free)."""
