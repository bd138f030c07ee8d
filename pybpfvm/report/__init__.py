"""How findings and runs are shown: text for people, JSON for machines."""
