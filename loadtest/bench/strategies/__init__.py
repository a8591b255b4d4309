"""Do the five cures work? Measured on what is present: ``make strategies``."""
