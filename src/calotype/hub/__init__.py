"""Repositories for the Hugging Face Hub: what is published, and a card of what was measured."""

from calotype.hub.folder import Told, write_folder
from calotype.hub.parts import Part, parts_of, places

__all__ = ["Part", "Told", "parts_of", "places", "write_folder"]
