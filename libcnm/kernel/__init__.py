"""The door to Linux: resource kinds, the contract, the real kernel, and a verified fake."""
