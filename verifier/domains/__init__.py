"""What is known of a 64-bit scalar: tristate numbers, ranges, and both kept in step."""
