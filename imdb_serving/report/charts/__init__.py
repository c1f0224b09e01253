"""The charts of a sweep's report; each function returns the charts, or why there are none."""
