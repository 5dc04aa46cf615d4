"""Data on the host: images, texts, records and the loader, in NumPy."""
