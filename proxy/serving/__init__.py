"""What every face works with: the protocol to what answers, bodies in, JSON and events out."""
