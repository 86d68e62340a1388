"""Batches: their order, what workers read, and the place in a stream."""
