"""What libcnm's own tests stand on, shipped to those who test drivers, runtimes and plug-ins of theirs.

Importing this package loads none of it: each is a module of its own.

    plugin         pytest fixtures: cnm_world, cnm_controller, cnm_lab, cnm_no_leaks
    world          FakeWorld, FakeHost: controllers without root, crashed at any effect
    kernel         the conformance kit of the kernel door      (the fake: libcnm.kernel.fake.FakeKernel)
    stores         the conformance kit of the store contract   (the fake: libcnm.kv.memory.MemoryStore, with profiles)
    store_machine  any store beside a plain dict
    ipam           the conformance kit of address management
    resolver       the conformance kit of resolver backends
    machine        Hypothesis against controllers on several hosts, beside the plain model in ``model``
    replay         a picture kept by events alone, beside what a controller says there is
    strategies     Hypothesis strategies for kernel resources and changes
    records        Hypothesis strategies for records, and for what users pass to the API
    snapshot       what is on this machine, before and after; finds what was left behind

The fakes pass the same kits as the real thing. What they do not promise is in the kits, too.
"""
