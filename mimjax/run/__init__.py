"""A run from start to end: prepared, fed, judged, stopped and written down."""
