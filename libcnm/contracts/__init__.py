"""What a driver, an IPAM, a resolver, a sandbox and a resource kind promise, and the values that cross those
borders.
"""
