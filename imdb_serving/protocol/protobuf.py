"""Message classes of protobuf from tables of fields. Knows no message of its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

Field = tuple[str, int, str]
"""Its name, its number and its type, with a star behind it where it is repeated. A message is a type as well."""


def message_classes(
    package: str, messages: Mapping[str, tuple[Field, ...]], *, syntax: str = "proto3"
) -> SimpleNamespace:
    """Make the classes of messages, by name. It takes a millisecond: whoever calls this keeps them.

    They are made of descriptors: no generated code ties this package to one version of protobuf. Fields that are not in
    the table are skipped when a message is read.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415 - slow, for few commands

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"imdb_serving/{package}.proto", package=package, syntax=syntax)
    for message, fields in messages.items():
        entry = file.message_type.add(name=message)
        for name, number, kind in fields:
            bare = kind.removesuffix("*")
            one = entry.field.add(name=name, number=number)
            one.label = field.LABEL_OPTIONAL if bare == kind else field.LABEL_REPEATED
            if bare in messages:
                one.type, one.type_name = field.TYPE_MESSAGE, f".{package}.{bare}"
            else:
                one.type = getattr(field, f"TYPE_{bare.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    return SimpleNamespace(**{name: message_factory.GetMessageClass(kind) for name, kind in found.items()})
