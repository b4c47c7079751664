"""The parts of tools/demo: what it fills in, the load, the comparison, the report."""
