"""The door to state: one contract (:mod:`~libcnm.kv.base`), several stores. Knows keys and bytes, never what they
mean.
"""
