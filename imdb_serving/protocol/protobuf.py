"""Message classes of protobuf from tables of fields. Knows no message of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace

Field = tuple[str, int, str]
"""Its name, its number and its type, with a star behind it where it is repeated. A message is a type as well."""


@functools.cache
def _built(package: str, syntax: str, messages: tuple[tuple[str, tuple[Field, ...]], ...]) -> SimpleNamespace:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - slow, for few commands

    field, names = descriptor_pb2.FieldDescriptorProto, [name for name, _ in messages]
    file = descriptor_pb2.FileDescriptorProto(name=f"imdb_serving/{package}.proto", package=package, syntax=syntax)
    for message, fields in messages:
        entry = file.message_type.add(name=message)
        for name, number, kind in fields:
            bare = kind.removesuffix("*")
            one = entry.field.add(name=name, number=number)
            one.label = field.LABEL_OPTIONAL if bare == kind else field.LABEL_REPEATED
            if bare in names:
                one.type, one.type_name = field.TYPE_MESSAGE, f".{package}.{bare}"
            else:
                one.type = getattr(field, f"TYPE_{bare.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in names}
    return SimpleNamespace(**{name: message_factory.GetMessageClass(kind) for name, kind in found.items()})


def message_classes(
    package: str, messages: Mapping[str, tuple[Field, ...]], *, syntax: str = "proto3"
) -> SimpleNamespace:
    """Return the classes of messages by name, made once a process.

    Made of descriptors: no generated code ties this package to one version of protobuf. Fields that are not in the
    table are skipped when a message is read.
    """
    return _built(package, syntax, tuple(messages.items()))
