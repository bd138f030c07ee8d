"""Replays find the addresses of their recordings free."""

from tests.support.addresses import addresses_are_free, machines_are_gone

__all__ = ["addresses_are_free", "machines_are_gone"]
