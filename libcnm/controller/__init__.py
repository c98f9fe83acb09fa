"""The CNM verbs and what makes them true: live objects, operations, engine, recovery, reconcile, resident, registry."""

import logging

# Whoever logs has loaded this package. Without it what we log would be printed, bare, in programs that set up nothing.
logging.getLogger("libcnm").addHandler(logging.NullHandler())
