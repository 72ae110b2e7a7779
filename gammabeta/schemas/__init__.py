"""The values that cross every border of gammabeta. Loads neither torch nor SQL."""
