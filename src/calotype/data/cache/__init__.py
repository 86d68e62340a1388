"""Latent caches: what a tokenizer made of pictures, encoded once."""
