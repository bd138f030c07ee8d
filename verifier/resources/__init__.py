"""What programs hold and must give back: locks, dynptrs, iterators, fields of map values."""
