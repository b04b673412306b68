"""Images over another image that change one thing."""
