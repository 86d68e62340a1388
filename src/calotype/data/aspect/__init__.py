"""Aspect buckets: pictures of any ratio, of which little is cropped."""
