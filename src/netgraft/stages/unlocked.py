"""A cached property without a lock, for objects that work in threads of their own."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self, TypeVar, overload

T = TypeVar("T")


class unlocked(cached_property[T]):
    """A cached property that several objects compute at the same time.

    Up to Python 3.11, functools' own holds one lock for all objects of a class while it computes for one of them, so
    that devices in threads would wait for each other. No object is shared by two threads here.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Self | T:
        if instance is None:
            return self
        assert self.attrname is not None, "it is set where the class names it"
        found = vars(instance)
        if self.attrname not in found:
            found[self.attrname] = self.func(instance)
        value: T = found[self.attrname]
        return value
