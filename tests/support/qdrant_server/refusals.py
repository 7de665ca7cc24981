"""What the stand-in refuses, with the status and nearly the words of Qdrant's own source (1.16)."""

from __future__ import annotations

import grpc


class Refused(Exception):
    """A call that is answered with an error."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def wrong_input(message: str) -> Refused:
    return invalid(f"Wrong input: {message}")


def no_collection(name: str) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")


def collection_exists(name: str) -> Refused:
    return Refused(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")


def not_covered(what: str) -> Refused:
    return Refused(grpc.StatusCode.UNIMPLEMENTED, f"The stand-in for Qdrant does not cover {what}.")


def check_name(name: str) -> None:
    """The length that every request's collection name must have."""
    if not 1 <= len(name.encode()) <= 255:
        raise _body("collection_name", f'value "{name}" invalid, length must be between 1 and 255 characters')


def check_new_name(name: str) -> None:
    """The characters that a new collection's name must not have, because it becomes a folder."""
    check_name(name)
    for character in name:
        if character in '<>:"/\\|?*\0\x1f':
            raise _body("collection_name", f'collection name cannot contain "{character}" char')


def check_least(field: str, value: float, least: float) -> None:
    if value < least:
        raise _body(field, f"value {value} invalid, must be {least} or larger")


def check_between(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _body(field, f"value {value} invalid, must be from {least} to {most}")


def check_dimension(got: int, wanted: int) -> None:
    if got != wanted:
        raise wrong_input(f"Vector dimension error: expected dim: {wanted}, got {got}")


def _body(field: str, message: str) -> Refused:
    return invalid(f"Validation error in body: [{field}: {message}]")
