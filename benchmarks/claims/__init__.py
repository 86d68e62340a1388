"""What papers claim of the family of autoencoders, one function a claim (docs/family.md)."""
