"""What an object's debug information knows of its source: lines, functions, variables, types."""
