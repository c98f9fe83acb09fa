"""Randomness as a door: ids, tokens, and choices that must not be guessed."""

from __future__ import annotations

import hashlib
import secrets
import threading
from abc import ABC, abstractmethod


class Entropy(ABC):
    """The one source of randomness."""

    @abstractmethod
    def token(self, octets: int) -> bytes:
        """That many unpredictable octets."""

    def new_id(self) -> str:
        """A new object id: 64 hexadecimal digits, as libnetwork's."""
        return self.token(32).hex()

    def below(self, bound: int) -> int:
        """A uniform integer in ``[0, bound)``, for ``bound`` up to 2**48."""
        return int.from_bytes(self.token(8), "big") % bound


class SystemEntropy(Entropy):
    """The operating system's."""

    def token(self, octets: int) -> bytes:
        return secrets.token_bytes(octets)


class SeededEntropy(Entropy):
    """The same sequence for the same seed: for tests and simulation only."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()

    def token(self, octets: int) -> bytes:
        with self._lock:
            self._count += 1
            material = f"{self._seed}/{self._count}".encode()
        return hashlib.shake_256(material).digest(octets)
