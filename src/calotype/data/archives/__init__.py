"""Tars of pictures, as WebDataset's own tools read them."""
