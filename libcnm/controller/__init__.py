"""The CNM verbs and what makes them true: live objects, operations, engine, recovery, reconcile, resident, registry."""
