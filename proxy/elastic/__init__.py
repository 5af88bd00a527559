"""The Elastic face: named inference endpoints as the official `elasticsearch` clients call them."""
