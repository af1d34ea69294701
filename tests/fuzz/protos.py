"""Mutations of protos that know nothing of what they mean; those of functions that do are in mutator.cc."""

from __future__ import annotations

import random
from typing import Any


def mutate(proto: Any, chance: random.Random) -> None:
    """Changes something, somewhere in a message: a value, a repetition, an omission, a part of another message."""
    fields = proto.ListFields()
    if not fields or chance.random() < 0.1:
        field = chance.choice(list(proto.DESCRIPTOR.fields))
        fields = [(field, getattr(proto, field.name))]
    field, value = chance.choice(fields)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        if value and chance.random() < 0.3:
            del value[chance.choice(sorted(value))]
        elif value and field.message_type.fields_by_name["value"].message_type:
            mutate(value[chance.choice(sorted(value))], chance)
        elif value:
            value[chance.choice(sorted(value))] = chance.choice(WORDS)
    elif field.is_repeated and value and chance.random() < 0.4:
        i = chance.randrange(len(value))
        if chance.random() < 0.5:
            del value[i]
        else:
            value.append(value[i])
    elif field.is_repeated and field.message_type:
        mutate(chance.choice(value) if value else value.add(), chance)
    elif field.is_repeated:
        scalar = any_scalar(field, chance)
        if value and chance.random() < 0.7:
            value[chance.randrange(len(value))] = scalar
        else:
            value.append(scalar)
    elif field.message_type:
        if chance.random() < 0.1:
            proto.ClearField(field.name)
        else:
            mutate(value, chance)
            getattr(proto, field.name).SetInParent()
    else:
        setattr(proto, field.name, any_scalar(field, chance))


WORDS = ["", "x", "w", "product", "tanh:y:0", "sum:output:0", "^tanh", "Tanh", "MatMul", "While", "If", "_Arg",
         "_Retval", "PartitionedCall", "SymbolicGradient", "good", "T", ":", "a:b:-1", "x" * 5000]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 9, 19, 20, 21, 25, 101, 2**31 - 1, -(2**31), 2**40]


def any_scalar(field: Any, chance: random.Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        word = chance.choice(WORDS)
        return word.encode() if field.type == field.TYPE_BYTES else word
    if field.cpp_type == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chance.choice([0.0, -1.0, 1e30, float("nan")])
    number = chance.choice(NUMBERS)
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM):
        number = max(-(2**31), min(number, 2**31 - 1))
    return abs(number) if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else number
