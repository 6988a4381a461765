"""What a study says: in words, in figures, and in files."""
