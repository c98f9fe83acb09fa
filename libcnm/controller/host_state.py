"""What a host shares between all the networks of one driver: the firewall table, forwarding, and who changed a sysctl.

Host-wide settings are never changed silently: what a setting was before is recorded in the same breath and restored
with the last network that needed it. Verbs that change the shared part hold the driver's lock.
"""

from __future__ import annotations

import attrs

from libcnm.contracts.driver import Driver
from libcnm.controller.context import Context
from libcnm.controller.repository import create, drop
from libcnm.kernel.resources import Sysctl
from libcnm.model import keys
from libcnm.model.deadline import Deadline
from libcnm.model.records import HostSetting, NetworkRecord
from libcnm.model.resource import Resource


def lock_name(driver: Driver) -> str:
    """The lock of what a driver's networks share on this host."""
    return f"driver-{driver.name}"


def base(
    context: Context, driver: Driver, deadline: Deadline, *, without: str = "", ready: bool = False
) -> list[Resource]:
    """What the driver's networks on this host need together; ``without`` leaves one network out of account, ``ready``
    those that are being made or deleted.
    """
    records = [
        stored.record
        for stored in context.local.networks(deadline)
        if stored.record.driver == driver.name
        and stored.record.id != without
        and (not ready or stored.record.state == "ready")
    ]
    if not records:
        return []
    versions = frozenset(subnet.version for record in records for subnet in record.subnets)
    found = list(driver.base(context.facts(driver), versions))
    before = {stored.record.key: stored.record.before for stored in context.local.host_settings(deadline)}
    return [
        attrs.evolve(resource, restore=before.get(resource.key)) if isinstance(resource, Sysctl) else resource
        for resource in found
    ]


def remember_settings(context: Context, driver: Driver, needed_by: str, deadline: Deadline) -> None:
    """Record what each host-wide setting is, before it is changed: by the first network that needs it, and by the first
    look after a boot. The driver's lock is held.
    """
    for resource in base(context, driver, deadline):
        if not isinstance(resource, Sysctl) or resource.restore is not None:
            continue
        there = context.doors.kernel.read_one(resource, deadline=deadline)
        if there is None or not isinstance(there.resource, Sysctl):
            continue
        before = there.resource.value
        setting = HostSetting(resource.key, before, context.doors.kernel.boot_id)
        context.local.commit(create(keys.host_setting(resource.key), setting), deadline, durable=False)
        if before != resource.value:
            context.log.warning(
                "host setting %s: %s -> %s while %s needs it", resource.key, before, resource.value, needed_by
            )


def forget_settings(context: Context, driver: Driver, record: NetworkRecord, deadline: Deadline) -> None:
    """Drop the notes about settings that, with this network gone, nobody needs any more."""
    needed = {one.key for one in base(context, driver, deadline, without=record.id) if isinstance(one, Sysctl)}
    mine = {one.key for one in driver.base(context.facts(driver), frozenset((4, 6))) if isinstance(one, Sysctl)}
    gone = [
        keys.host_setting(stored.record.key)
        for stored in context.local.host_settings(deadline)
        if stored.record.key in mine - needed
    ]
    if gone:
        context.local.commit(drop(*gone), deadline, durable=False)
