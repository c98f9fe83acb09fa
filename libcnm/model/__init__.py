"""What things *are*: frozen records, ids, addresses, options, lifecycles, limits. No I/O, no clock, no randomness."""
