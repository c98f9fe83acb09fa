"""Names: each network's table, what a sandbox sees of it, and the server that says so over DNS.

Pure: :mod:`~libcnm.dns.names`, ``zone``, ``view`` (the rule from a question to its answer), ``question`` and ``answer``
(the messages), ``cache``, ``responder``, ``files`` (hosts, resolv.conf, hostname as text). With sockets: ``loop``,
``service`` and ``stream`` (clients), ``exchange`` and ``forward`` (upstreams), ``server`` (all of it on one thread).
Nothing here enters a namespace, reads a file, or knows the store or the controller.
"""
