"""What people look at: a page or a picture each, made by templates."""
