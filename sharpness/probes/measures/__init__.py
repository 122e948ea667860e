"""The table of measures: one row a class and group, one column a measure."""
