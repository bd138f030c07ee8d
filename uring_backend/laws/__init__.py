"""Laws of the contract, a module for each family of requests."""
