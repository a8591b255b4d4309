"""`make strategies`: do the five mitigations work? Measured on the runtime that is installed."""
