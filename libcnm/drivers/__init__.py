"""The built-in network drivers: pure functions from records to resources. None knows another; none knows the
controller.
"""
