"""The contract: its stubs, made from the proto file at each start, and its refusals."""

import os
import sys
import tempfile
import unicodedata
from pathlib import Path

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

CONTRACT = "undertone/telephony/v1/telephony.proto"


def _proto():
    """The folder that has the contract: the one that UNDERTONE_PROTO names, else one beside this file or above it."""
    here = Path(__file__).resolve()
    named = os.environ.get("UNDERTONE_PROTO")
    places = [Path(named)] if named else [folder / "proto" for folder in here.parents]
    for place in places:
        if (place / CONTRACT).is_file():
            return place
    sys.exit(f"{CONTRACT} is not in {', '.join(map(str, places))}: set UNDERTONE_PROTO to the folder that has it")


PROTO = _proto()
_stubs = tempfile.TemporaryDirectory()
if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={_stubs.name}", f"--grpc_python_out={_stubs.name}",
                CONTRACT]) != 0:
    sys.exit("the proto file can not be compiled")
sys.path.insert(0, _stubs.name)
from undertone.telephony.v1 import telephony_pb2 as pb  # noqa: E402
from undertone.telephony.v1 import telephony_pb2_grpc as pb_grpc  # noqa: E402

_stubs.cleanup()

CODES = {
    "MissingParameter": grpc.StatusCode.INVALID_ARGUMENT,
    "InvalidInput": grpc.StatusCode.INVALID_ARGUMENT,
    "InvalidState": grpc.StatusCode.FAILED_PRECONDITION,
    "Forbidden": grpc.StatusCode.UNIMPLEMENTED,
    "NotPermitted": grpc.StatusCode.PERMISSION_DENIED,
    "NotFound": grpc.StatusCode.NOT_FOUND,
    "Internal": grpc.StatusCode.INTERNAL,
    "InUse": grpc.StatusCode.ALREADY_EXISTS,
    "Unavailable": grpc.StatusCode.UNAVAILABLE,
}
LONGEST = 128
OPTIONAL = {"CommandContext.feature_code", "SetForwardingRequest.to"}


class Refused(Exception):
    """A command that has changed nothing. `about`: what it is about, as device="d-1"."""

    def __init__(self, reason, pattern, **about):
        self.reason, self.about = reason, about
        self.metadata = {**about, "pattern": pattern} if about else {}
        self.text = pattern.replace("{}", next(iter(about.values())), 1) if about else pattern
        super().__init__(self.text)

    async def abort(self, context):
        """Ends the call with the gRPC code of the reason and google.rpc.ErrorInfo in the details."""
        code = CODES[self.reason]
        status = status_pb2.Status(code=code.value[0], message=self.text)
        status.details.add().Pack(error_details_pb2.ErrorInfo(
            reason=self.reason, domain="undertone", metadata=self.metadata))
        trailer = ("grpc-status-details-bin", status.SerializeToString())
        await context.abort(code, self.text, trailing_metadata=(trailer,))


def check(message, prefix=""):
    """Refuses a request with a field that is absent, too long, unprintable or unknown."""
    for field in message.DESCRIPTOR.fields:
        name, value = prefix + field.name, getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.name == "context":
            if not message.HasField("context"):
                raise Refused("MissingParameter", "Parameter '{}' is required.", parameter=name)
            check(value, f"{name}.")
        elif field.type == FieldDescriptor.TYPE_ENUM:
            if value == 0 or value not in field.enum_type.values_by_number:
                raise Refused("InvalidInput", "Parameter '{}' has no known value.", parameter=name)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if not value and f"{message.DESCRIPTOR.name}.{field.name}" not in OPTIONAL:
                raise Refused("MissingParameter", "Parameter '{}' is required.", parameter=name)
            if len(value) > LONGEST:
                raise Refused("InvalidInput", "Parameter '{}' is too long.", parameter=name)
            if any(unicodedata.category(character) == "Cc" for character in value):
                raise Refused("InvalidInput", "Parameter '{}' is not printable.", parameter=name)
