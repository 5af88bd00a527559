"""Pure functions between the two wires: no I/O, no clocks, no randomness. Ids and times come in as arguments."""
