"""The door to the rest of the operating system: clock, entropy, files, locks, processes. Knows nothing of networks."""
