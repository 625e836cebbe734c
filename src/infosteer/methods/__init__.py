"""One folder a method, sorted by the surface it touches. The registry walks them; nothing is listed here."""
