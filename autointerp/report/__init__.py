"""What people look at: the terminal's summary and the HTML page."""
