"""Folders of pictures, and the index that knows when it is stale."""
