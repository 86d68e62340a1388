"""What a run is: typed, named, and no work."""
