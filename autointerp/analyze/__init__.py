"""Statistics over finished runs."""
