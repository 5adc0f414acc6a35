"""Figures as PNG and SVG files, in one look; they need matplotlib."""
