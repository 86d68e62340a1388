"""From bytes to pictures and texts: files near and far, formats, colours, captions."""
