"""The table of measures: one row per class and group, one column per measure."""
