"""What libcnm's own tests stand on, shipped to those who test drivers, runtimes and plug-ins of theirs.

Fakes that pass the same conformance kits as the real thing, strategies, snapshots that find what was left behind, and
a pytest plugin. Importing this package loads none of them: each is a module of its own.
"""
