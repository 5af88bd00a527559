"""Named inference endpoints, and the way from a model's name to what answers for it."""
