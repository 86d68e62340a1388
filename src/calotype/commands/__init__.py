"""The verbs: one file each, its options and its work."""
